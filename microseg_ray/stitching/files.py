"""Tiles that lie on disk as files, for `stitch`."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from microseg_ray.errors import UNREADABLE, InputError
from microseg_ray.geometry import Box
from microseg_ray.sources import open_micrograph, read_mask

if TYPE_CHECKING:
    import os

    from numpy.typing import NDArray

__all__ = ["tiles_on_disk"]

Origins = str | Mapping[str, tuple[int, int]]


def tiles_on_disk(
    files: Iterable[str | os.PathLike[str]],
    origins: Origins,
    *,
    kind: Literal["mask", "gray", "scores"] = "mask",
) -> Iterator[tuple[tuple[int, int], NDArray[Any]]]:
    r"""Read tiles one by one, each with the origin that its name or a table gives.

    Args:
        files: The tile files, in any order.
        origins: Where each tile lies. A regular expression with the groups `y0` and `x0` that is searched in the file's
            stem; or a table: a CSV file with the columns name, y0, x0, or a mapping from file name to (y0, x0).
        kind: `mask`: class indices by `read_mask`; `gray`: a gray image by `open_micrograph`; `scores`: a `.npy` file of
            (class, y, x).

    Yields:
        Pairs ((y0, x0), array) for `stitch`: array is (y, x), or (class, y, x) for scores.

    Raises:
        InputError: A file has no origin, or cannot be read.

    Example:
        >>> import tempfile
        >>> from microseg_ray import stitch
        >>> folder = Path(tempfile.mkdtemp())
        >>> np.save(folder / "a_y0_x0.npy", np.zeros((2, 2, 2), np.float32))
        >>> np.save(folder / "a_y0_x2.npy", np.ones((2, 2, 3), np.float32))
        >>> tiles = tiles_on_disk(folder.glob("*.npy"), r"_y(?P<y0>\d+)_x(?P<x0>\d+)", kind="scores")
        >>> stitch(tiles, shape=(2, 5), argmax=False)[0].tolist()
        [[0.0, 0.0, 1.0, 1.0, 1.0], [0.0, 0.0, 1.0, 1.0, 1.0]]
    """
    table = _table(origins)
    for file in files:
        path = Path(file)
        yield _origin(path, origins if table is None else table), _read(path, kind)


def _table(origins: Origins) -> Mapping[str, tuple[int, int]] | None:
    """The table that a CSV file holds, or None where `origins` is an expression."""
    if not isinstance(origins, str):
        return origins
    if not origins.endswith(".csv"):
        return None
    try:
        with Path(origins).open(encoding="utf-8", newline="") as handle:
            return {row["name"]: (int(row["y0"]), int(row["x0"])) for row in csv.DictReader(handle)}
    except (OSError, *UNREADABLE) as error:
        raise InputError(origins, f"is no table of tile origins ({error})", "give columns name, y0, x0") from error


def _origin(path: Path, origins: Origins) -> tuple[int, int]:
    if isinstance(origins, str):
        found = re.search(origins, path.stem)
        if found is None:
            raise InputError(path, f"its name does not match {origins!r}", "correct the expression, or give a table")
        return int(found["y0"]), int(found["x0"])
    if path.name not in origins:
        raise InputError(path, "the table of origins has no row for it", "add one: name, y0, x0")
    return origins[path.name]


def _read(path: Path, kind: Literal["mask", "gray", "scores"]) -> NDArray[Any]:
    match kind:
        case "mask":
            return read_mask(path)
        case "gray":
            with open_micrograph(path) as micrograph:
                pixels = micrograph.read(Box.of_shape(micrograph.info.shape))
            if pixels.shape[0] != 1:
                raise InputError(path, "is a colour image", "stitch its channels one by one")
            gray: NDArray[Any] = pixels[0]
            return gray
        case "scores":
            try:
                scores: NDArray[Any] = np.load(path, allow_pickle=False)
            except (OSError, ValueError) as error:
                raise InputError(path, f"is no .npy file of scores ({error})", "save it with numpy.save") from error
            return scores
