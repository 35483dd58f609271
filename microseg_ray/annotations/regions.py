"""What every annotation format is read into: regions of one image, and what of them could not be used."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path  # noqa: F401 - doctests name it
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from pydantic import TypeAdapter, ValidationError

from microseg_ray.annotations.shapes import Bitmap, Line, Polygon
from microseg_ray.errors import InputError, ObjectStoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from microseg_ray.annotations.shapes import Shape
    from microseg_ray.files import Place

__all__ = [
    "BadRegionError",
    "Drawing",
    "IgnoredShapeError",
    "ReadOptions",
    "Region",
    "collect",
    "line",
    "number",
    "page_of",
    "points",
    "polygon",
    "read_json",
    "row_major_runs",
    "validated",
]

# A coordinate beyond any micrograph's side: the file is damaged, and numbers so large would not be exact.
MAX_COORDINATE = 1e7
_MAX_TEXT_BYTES = 4 << 30
ModelT = TypeVar("ModelT")


class BadRegionError(ValueError):
    """A region that cannot be drawn; its message says why. It is left out and reported, the rest of the file counts."""


class IgnoredShapeError(ValueError):
    """A region without an area, such as a point; its message names the kind."""


@dataclass(frozen=True, eq=False)
class Region:
    """One region that a person drew.

    Attributes:
        value: Its class, as the annotation says it.
        shape: Where it is.
        where: File and place in it, for messages.
        page: Index of the page of the image that it was drawn on; None where it belongs to all of them.

    Example:
        >>> from microseg_ray.annotations.shapes import Rectangle
        >>> Region("pore", Rectangle(0, 0, 2, 2)).value
        'pore'
    """

    value: str
    shape: Shape
    where: str = ""
    page: int | None = None


@dataclass(eq=False)
class Drawing:
    """What one annotation file says about one image.

    Attributes:
        image: The image's name as written; or the annotation file's own stem, where files belong together by that.
        where: The annotation file, and the place in it.
        size: (height, width) of the image as the annotation knows it, or None.
        regions: In the order in which they were drawn.
        skipped: (where, reason) of each region that could not be drawn.
        ignored: How many points and other shapes without an area there are, by kind.
    """

    image: str
    where: str
    size: tuple[int, int] | None = None
    regions: list[Region] = field(default_factory=list)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    ignored: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ReadOptions:
    """How annotation files are read.

    Attributes:
        attribute: Which attribute of a region holds its class; None: the format's own, or the only one.
        line_width: px, of lines whose format says no width.
        coordinates: "centre" or "corner" where the user knows better than the format; else "auto".
        known: Values that mean a class; a name such as "silt-12" is read as "silt" where only that is known.
    """

    attribute: str | None = None
    line_width: float = 1.0
    coordinates: str = "auto"
    known: frozenset[str] = frozenset()

    def shift(self, corner: bool) -> float:
        """What is added to coordinates: -0.5 where (0, 0) is the outer corner of the first pixel.

        Args:
            corner: What the format does.
        """
        is_corner = corner if self.coordinates == "auto" else self.coordinates == "corner"
        return -0.5 if is_corner else 0.0


def collect(
    drawing: Drawing, where: str, value: str, make: Callable[[], Shape], page: Callable[[], int | None] = lambda: None
) -> None:
    """Add a region to a drawing, or the reason why it cannot be drawn.

    Args:
        drawing: The drawing.
        where: File and place in it.
        value: The region's class, as the annotation has it.
        make: Returns the shape, or raises `BadRegionError` or `IgnoredShapeError`.
        page: Returns the page that it was drawn on, or raises `BadRegionError`.

    Example:
        >>> drawing = Drawing("a.png", "a.json")
        >>> collect(drawing, "a.json: region 1", "pore", lambda: polygon([[0, 0], [1, 1]]))
        >>> drawing.regions, drawing.skipped
        ([], [('a.json: region 1', 'a polygon of 2 points has no area')])
    """
    try:
        drawing.regions.append(Region(value, make(), where, page()))
    except BadRegionError as error:
        drawing.skipped.append((where, str(error)))
    except IgnoredShapeError as error:
        drawing.ignored[str(error)] = drawing.ignored.get(str(error), 0) + 1


def page_of(z: int, t: int) -> int | None:
    """The page of slice z and frame t, both from 0, -1 where one is not set.

    Raises:
        BadRegionError: It depends on the number of slices, which annotations do not hold.

    Example:
        >>> page_of(2, -1), page_of(2, 0), page_of(-1, 4), page_of(-1, -1)
        (2, 2, 4, None)
    """
    if t <= 0 or z < 0:
        return None if max(z, t) < 0 else max(z, t)
    raise BadRegionError(f"it is on slice {z + 1} of frame {t + 1}: which page that is, the annotation does not say")


def number(value: Any, name: str) -> float:
    """One finite number of a region, also where it is written as text.

    Raises:
        BadRegionError: It is missing, no number, not finite, or beyond any micrograph.

    Example:
        >>> number("2.5", "rx")
        2.5
    """
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise BadRegionError(f"{name} is {value!r}, not a number") from None
    if not np.isfinite(found):
        raise BadRegionError(f"{name} is {found}")
    if abs(found) > MAX_COORDINATE:
        raise BadRegionError(f"{name} is {found:g}, beyond any micrograph")
    return found


def points(xy: Iterable[Any], shift: float = 0.0) -> NDArray[np.float64]:
    """Points (n, 2) as (y, x), from pairs (x, y).

    Raises:
        BadRegionError: Something is no pair of finite numbers.

    Example:
        >>> points([[1, 2], [3, 4]]).tolist()
        [[2.0, 1.0], [4.0, 3.0]]
    """
    try:
        pairs = np.array([[float(x), float(y)] for x, y in (tuple(pair)[:2] for pair in xy)], np.float64)
    except (TypeError, ValueError, OverflowError):
        raise BadRegionError("its points are not pairs of numbers") from None
    pairs = pairs.reshape(-1, 2)
    if not np.isfinite(pairs).all():
        raise BadRegionError(f"point {int(np.argmin(np.isfinite(pairs).all(axis=1))) + 1} is NaN or infinite")
    if pairs.size and np.abs(pairs).max() > MAX_COORDINATE:
        raise BadRegionError(f"a coordinate is {np.abs(pairs).max():g}, beyond any micrograph")
    return np.ascontiguousarray(pairs[:, ::-1]) + shift


def polygon(xy: Iterable[Any], shift: float = 0.0) -> Polygon:
    """A polygon of pairs (x, y).

    Raises:
        BadRegionError: Fewer than three points, or something is no pair of finite numbers.
    """
    ring = points(xy, shift)
    if len(ring) < 3:
        raise BadRegionError(f"a polygon of {len(ring)} point{'s' * (len(ring) != 1)} has no area")
    return Polygon((ring,))


def line(xy: Iterable[Any], width: float, shift: float = 0.0) -> Line:
    """A line through pairs (x, y).

    Raises:
        BadRegionError: Fewer than two points, or something is no pair of finite numbers.
    """
    corners = points(xy, shift)
    if len(corners) < 2:
        raise BadRegionError(f"a line of {len(corners)} point{'s' * (len(corners) != 1)} has no length")
    return Line(corners, max(1.0, width))


def row_major_runs(runs: Iterable[Any], y0: int, x0: int, shape: tuple[int, int]) -> Bitmap:
    """A bitmap of run lengths along rows, which alternate between outside and inside and begin outside.

    Raises:
        BadRegionError: The runs do not add up to the shape.

    Example:
        >>> row_major_runs([1, 2, 1], 0, 0, (2, 2)).mask.tolist()
        [[False, True], [True, False]]
    """
    try:
        lengths = np.array([int(run) for run in runs], np.int64)
    except (TypeError, ValueError, OverflowError):
        raise BadRegionError("its run lengths are not whole numbers") from None
    height, width = shape
    if min(shape) < 1 or height * width > MAX_COORDINATE**2 / 1e3:
        raise BadRegionError(f"a bitmap of {height} x {width} px")
    if (lengths < 0).any() or int(lengths.sum()) != height * width:
        raise BadRegionError(f"its run lengths add up to {int(lengths.sum())}, not to {height} x {width} px")
    inside = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
    return Bitmap(y0, x0, inside.reshape(shape))


def read_json(path: Place) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: It is missing, no text, or no JSON; with line and column.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        reason = f"not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        raise InputError(path, reason, "export the annotations again") from error
    except (RecursionError, ValueError) as error:
        raise InputError(path, f"not valid JSON ({type(error).__name__})", "export the annotations again") from error


def read_text(path: Place) -> str:
    """The content of a text file in UTF-8, with or without a byte order mark.

    Raises:
        InputError: It is missing, empty, or not UTF-8.
    """
    try:
        if path.stat().st_size > _MAX_TEXT_BYTES:
            raise InputError(path, "the annotation file is larger than 4 GiB", "split it")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(path, "the annotation file is not UTF-8 text", "export it again as UTF-8") from error
    except ObjectStoreError:
        raise
    except OSError as error:
        raise InputError(
            path, f"cannot be read ({error.strerror or 'no such file'})", "check the path and its permissions"
        ) from error
    if not text.strip():
        raise InputError(path, "the annotation file is empty", "export it again")
    return text


def validated(path: Place, document: Any, model: type[ModelT] | TypeAdapter[ModelT]) -> ModelT:
    """A document in the shape of a format, or an error that names the place where it is not.

    Raises:
        InputError: With the key path of the first problem.

    Example:
        >>> validated(Path("a.json"), {"a": "x"}, TypeAdapter(dict[str, int]))
        Traceback (most recent call last):
            ...
        microseg_ray.errors.InputError: a.json: at a: Input should be a valid integer, ... (got 'x'); ...
    """
    adapter = model if isinstance(model, TypeAdapter) else TypeAdapter(model)
    try:
        return adapter.validate_python(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the top"
        shown = repr(first.get("input"))
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise InputError(
            path,
            f"at {place}: {first['msg']} (got {shown})",
            "this is not the format that was expected; check the file, or --format",
        ) from error
