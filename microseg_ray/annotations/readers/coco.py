"""COCO JSON: polygons and run lengths, by pycocotools, whose pixel rule is COCO's own (Lin et al., 2014).

In that rule (0, 0) is the outer corner of the first pixel, and a 9 x 7 box has 63 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil, floor
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from microseg_ray.annotations.regions import BadRegionError, Drawing, collect, points, read_json, validated
from microseg_ray.errors import InputError
from microseg_ray.geometry import Box

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.annotations.regions import ReadOptions
    from microseg_ray.annotations.shapes import Extent, Shape
    from microseg_ray.files import Place

__all__ = ["CocoPolygons", "CocoRuns", "read_coco"]


_PAGE_KEYS = ("page", "frame_index", "frame_id", "frame")


class _Image(BaseModel):
    model_config = {"extra": "allow"}
    id: int | str
    file_name: str
    height: int
    width: int


class _Category(BaseModel):
    id: int | str
    name: str


class _Annotation(BaseModel):
    model_config = {"extra": "allow"}
    image_id: int | str
    category_id: int | str | None = None
    segmentation: Any = None


class _Document(BaseModel):
    images: list[_Image]
    annotations: list[_Annotation]
    categories: list[_Category]


@dataclass(frozen=True, eq=False)
class CocoPolygons:
    """Polygons of one annotation, filled by COCO's rule.

    Args:
        rings: Of each, float (n, 2), (x, y) in COCO's coordinates.
        size: (height, width) of the image.

    Example:
        >>> box = np.array([[1, 1], [10, 1], [10, 8], [1, 8]], float)
        >>> CocoPolygons((box,), (20, 20)).fill(Box(0, 0, 20, 20)).sum()
        np.int64(63)
    """

    rings: tuple[NDArray[np.float64], ...]
    size: tuple[int, int]

    @property
    def extent(self) -> Extent:
        """Where they lie, in coordinates of pixel centres."""
        corners = np.concatenate(self.rings)
        (x0, y0), (x1, y1) = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
        return y0 - 0.5, x0 - 0.5, y1 - 0.5, x1 - 0.5

    def bounds(self) -> Box:
        """The box of their pixels."""
        y0, x0, y1, x1 = self.extent
        return Box(floor(y0), floor(x0), ceil(y1) + 1, ceil(x1) + 1)

    def fill(self, box: Box) -> NDArray[np.bool_]:
        """Their pixels in a box."""
        inside = np.zeros(box.shape, bool)
        for ring in self.rings:
            # Each polygon is filled in a frame around it. Where the frame begins inside the image nothing of the polygon
            # is before it, and whole pixels of offset change nothing, so it is what a fill in the whole image gives.
            x0, y0 = (max(0, floor(value)) for value in ring.min(axis=0))
            x1, y1 = (min(side, ceil(value) + 1) for side, value in zip(self.size[::-1], ring.max(axis=0), strict=True))
            frame = Box(y0, x0, max(y0, y1), max(x0, x1))
            inner = frame.intersection(box)
            if inner.area:
                runs = _pycocotools().frPyObjects([_moved(ring, x0, y0)], *frame.shape)
                filled = _decode(runs[0]) > 0
                inside[inner.relative_to(box).slices] |= filled[inner.relative_to(frame).slices]
        return inside


@dataclass(frozen=True, eq=False)
class CocoRuns:
    """Run lengths of one annotation. pycocotools decodes the whole image's plane, one at a time.

    Args:
        runs: As pycocotools takes it: {"size": [height, width], "counts": ...}.
        size: (height, width) of the image.
    """

    runs: dict[str, Any]
    size: tuple[int, int]

    @property
    def extent(self) -> Extent:
        """Where it lies."""
        box = self.bounds()
        return float(box.y0), float(box.x0), float(box.y1 - 1), float(box.x1 - 1)

    def bounds(self) -> Box:
        """The box of its pixels."""
        x, y, width, height = (int(value) for value in _pycocotools().toBbox(self.runs))
        return Box(y, x, y + height, x + width)

    def fill(self, box: Box) -> NDArray[np.bool_]:
        """Its pixels in a box."""
        return _decode(self.runs)[box.slices] > 0


def read_coco(path: Place, options: ReadOptions) -> list[Drawing]:
    """Read a COCO file.

    Args:
        path: The JSON, with images, annotations and categories.
        options: `attribute` None is the category's name; else a key of an annotation or of its `attributes`.

    Returns:
        One drawing per image, also of images without annotations.

    Raises:
        InputError: Not COCO, or an annotation of an image or a category that the file does not list.
    """
    document = validated(path, read_json(path), _Document)
    names = {category.id: category.name for category in document.categories}
    drawings = {
        image.id: Drawing(image.file_name, f"{path.name}: {image.file_name}", (image.height, image.width))
        for image in document.images
    }
    pages = _pages(path, document.images)
    if len(drawings) < len(document.images):
        raise InputError(path, "two images have the same id", "export the annotations again")
    for place, annotation in enumerate(document.annotations):
        if annotation.image_id not in drawings:
            reason = f"at annotations.{place}.image_id: there is no image {annotation.image_id!r}"
            raise InputError(path, reason, "export the annotations again")
        drawing = drawings[annotation.image_id]
        value = _value(annotation, names, options.attribute)
        where = f"{drawing.where}: annotations.{place}"
        shape = partial(_shape, annotation.segmentation, drawing.size or (0, 0))
        collect(drawing, where, value, shape, partial(pages.get, annotation.image_id))
    return list(drawings.values())


def _pages(path: Place, images: list[_Image]) -> dict[int | str, int]:
    """The page of each image that shares its file with others; a file of its own has no such number.

    Raises:
        InputError: Nothing says which frame is which page.
    """
    by_name: dict[str, list[_Image]] = {}
    for image in images:
        by_name.setdefault(image.file_name, []).append(image)
    pages: dict[int | str, int] = {}
    for name, several in by_name.items():
        for image in several if len(several) > 1 else ():
            extra = image.model_extra or {}
            page = next((extra[key] for key in _PAGE_KEYS if isinstance(extra.get(key), int)), None)
            if page is None:
                reason = f"{len(several)} images are named {name}, and none of {', '.join(_PAGE_KEYS)} says which page each is"
                raise InputError(path, reason, "export each page as a file of its own")
            pages[image.id] = page
    return pages


def _value(annotation: _Annotation, names: dict[int | str, str], attribute: str | None) -> str:
    if attribute is None:
        if annotation.category_id is None:
            return "(none)"
        return names.get(annotation.category_id, f"category {annotation.category_id}")
    extra = annotation.model_extra or {}
    inner = extra.get("attributes")
    found = extra.get(attribute, inner.get(attribute) if isinstance(inner, dict) else None)
    return "(none)" if found is None or not str(found).strip() else str(found).strip()


def _shape(segmentation: Any, size: tuple[int, int]) -> Shape:
    if isinstance(segmentation, dict):
        return _runs(segmentation, size)
    if not isinstance(segmentation, list) or not segmentation:
        raise BadRegionError("it has no segmentation, only a box")
    rings = []
    for flat in segmentation:
        if not isinstance(flat, list) or len(flat) % 2:
            raise BadRegionError("its polygon is no list of x, y, x, y ...")
        ring = points(zip(flat[::2], flat[1::2], strict=True))[:, ::-1]
        if len(ring) < 3:
            raise BadRegionError(f"a polygon of {len(ring)} point{'s' * (len(ring) != 1)} has no area")
        # pycocotools walks along the outline in steps of a fifth of a pixel, also where it is far outside.
        if np.abs(ring).max() > 4 * (sum(size) + 100):
            raise BadRegionError(f"a coordinate is {np.abs(ring).max():g}, far outside the image")
        rings.append(np.ascontiguousarray(ring))
    _pycocotools()
    return CocoPolygons(tuple(rings), size)


def _runs(segmentation: dict[str, Any], size: tuple[int, int]) -> CocoRuns:
    counts, claimed = segmentation.get("counts"), segmentation.get("size")
    if not isinstance(claimed, list) or claimed != list(size):
        raise BadRegionError(f"its run lengths are for {claimed} px (height, width), the image has {list(size)}")
    mask = _pycocotools()
    if isinstance(counts, list):
        if any(not isinstance(run, int) or run < 0 for run in counts) or sum(counts) != size[0] * size[1]:
            raise BadRegionError(f"its run lengths do not add up to {size[0]} x {size[1]} px")
        return CocoRuns(mask.frPyObjects({"size": list(size), "counts": counts}, *size), size)
    if not isinstance(counts, str) or not counts.isascii():
        raise BadRegionError("its counts are neither run lengths nor their text")
    runs = {"size": list(size), "counts": counts.encode("ascii")}
    _check_text(counts, size)
    return CocoRuns(runs, size)


def _check_text(counts: str, size: tuple[int, int]) -> None:
    """Add up runs in text: pycocotools trusts them and writes past the plane where they are too long."""
    total, place, before = 0, 0, [0, 0, 0]
    while place < len(counts):
        value, shift, more = 0, 0, True
        while more:
            if place >= len(counts) or shift > 40:
                raise BadRegionError("its run lengths are damaged")
            code = ord(counts[place]) - 48
            if not 0 <= code < 64:
                raise BadRegionError("its run lengths are damaged")
            value |= (code & 0x1F) << shift
            more, shift, place = bool(code & 0x20), shift + 5, place + 1
            if not more and code & 0x10:
                value |= -1 << shift
        # From the fourth on, a run is written as its difference to the one before the last.
        value += before[-2] if len(before) > 5 else 0
        if value < 0:
            raise BadRegionError("its run lengths are damaged")
        before.append(value)
        total += value
    if total != size[0] * size[1]:
        raise BadRegionError(f"its run lengths add up to {total}, not to {size[0]} x {size[1]} px")


def _moved(ring: NDArray[np.float64], x0: int, y0: int) -> list[float]:
    """A ring in the coordinates of a frame, x, y, x, y ..., so that pycocotools rounds it as it would in the image.

    It rounds to fifths of a pixel, and a plain difference can fall to the other side of a tie by its last bit.
    """
    fifths = np.trunc(5 * ring + 0.5) - (5 * x0, 5 * y0)
    # What it does to these is trunc(5 * value + 0.5).
    moved: list[float] = np.where(fifths >= 0, fifths, fifths - 0.75).ravel().tolist()
    return [value / 5 for value in moved]


def _decode(runs: dict[str, Any]) -> NDArray[np.uint8]:
    import warnings

    with warnings.catch_warnings():
        # Of numpy 2, about pycocotools' own arrays.
        warnings.simplefilter("ignore", DeprecationWarning)
        decoded: NDArray[np.uint8] = _pycocotools().decode(runs)
    return decoded


def _pycocotools() -> Any:
    try:
        from pycocotools import mask
    except ImportError as error:
        raise InputError(
            "COCO annotations", "need pycocotools", "install it with pip install 'microseg_ray[annotations]'"
        ) from error
    return mask
