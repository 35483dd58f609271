"""The coarser levels of a mask, by majority, and the OME-Zarr 0.5 metadata that names them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import UNREADABLE
from microseg_ray.geometry import Box, ceil_to
from microseg_ray.names import text
from microseg_ray.runs.store.spec import create_pixels
from microseg_ray.settings import IGNORE_INDEX, default_color

if TYPE_CHECKING:
    import zarr
    from numpy.typing import NDArray

    from microseg_ray.runs.store.spec import MaskSpec

__all__ = [
    "build_pyramid",
    "create_level",
    "halved",
    "label_axes",
    "label_metadata",
    "level_grids",
    "level_shapes",
    "make_level_shard",
    "mode_downsample",
    "stale_levels",
]

SMALLEST_LEVEL = 512
_ROWS = 64
"""Rows of a level that are made at once, so that the values of its squares stay in the processor's cache."""


def mode_downsample(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Halve a mask: the most frequent class of each 2 x 2 square, the lowest on a tie.

    A square without any measured pixel stays `IGNORE_INDEX`; an odd last row or column is kept as it is. The four values of
    a square are sorted, so that the cost does not depend on the number of classes.

    Args:
        mask: (y, x) uint8.

    Returns:
        (ceil(y / 2), ceil(x / 2)) uint8.

    Example:
        >>> mode_downsample(np.array([[1, 1, 2], [0, 255, 255]], np.uint8))
        array([[1, 2]], dtype=uint8)
    """
    height, width = ceil_to(mask.shape[0], 2), ceil_to(mask.shape[1], 2)
    if mask.shape != (height, width):
        padded = np.full((height, width), IGNORE_INDEX, np.uint8)
        padded[: mask.shape[0], : mask.shape[1]] = mask
        mask = padded
    winner = np.empty((height // 2, width // 2), np.uint8)
    for y in range(0, len(winner), _ROWS):
        winner[y : y + _ROWS] = _winners(mask[2 * y : 2 * (y + _ROWS)])
    return winner


def _winners(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """`mode_downsample` of even sides. `IGNORE_INDEX` is the largest value: sorted, what is measured comes first."""
    one, two, three, four = (np.ascontiguousarray(mask[y::2, x::2]) for y in (0, 1) for x in (0, 1))
    low, high = np.minimum(one, two), np.maximum(one, two)
    other_low, other_high = np.minimum(three, four), np.maximum(three, four)
    first, fourth = np.minimum(low, other_low), np.maximum(high, other_high)
    middle, other_middle = np.maximum(low, other_low), np.minimum(high, other_high)
    second, third = np.minimum(middle, other_middle), np.maximum(middle, other_middle)
    # The lowest wins unless another class alone is there twice.
    single = first != second
    np.copyto(first, second, where=single & (second == third) & (second != IGNORE_INDEX))
    np.copyto(first, third, where=single & (second != third) & (third == fourth) & (third != IGNORE_INDEX))
    return first


def halved(pixels: NDArray[Any]) -> NDArray[Any]:
    """The mean of each 2 x 2 square; an odd last row or column counts twice.

    Args:
        pixels: (c, y, x).

    Returns:
        (c, ceil(y / 2), ceil(x / 2)) of the same dtype, integers rounded half up.

    Example:
        >>> halved(np.array([[[1, 2, 10], [3, 4, 20]]], np.uint8)).tolist()
        [[[3, 15]]]
    """
    height, width = (ceil_to(side, 2) for side in pixels.shape[1:])
    if pixels.shape[1:] != (height, width):
        grown = ((0, 0), (0, height - pixels.shape[1]), (0, width - pixels.shape[2]))
        pixels = np.pad(pixels, grown, mode="edge")
    wide = np.uint16 if pixels.dtype == np.uint8 else (np.float64 if pixels.dtype.kind == "f" else np.int64)
    total: NDArray[Any] = pixels[:, 0::2, 0::2].astype(wide)
    for y, x in ((0, 1), (1, 0), (1, 1)):
        total += pixels[:, y::2, x::2]
    mean = total / 4 if pixels.dtype.kind == "f" else (total + 2) >> 2
    return np.asarray(mean, pixels.dtype)


def level_shapes(shape: tuple[int, int]) -> list[tuple[int, int]]:
    """Shapes of all levels of a pyramid, the full resolution first.

    Example:
        >>> level_shapes((1025, 600))
        [(1025, 600), (513, 300), (257, 150)]
    """
    shapes = [shape]
    while max(shapes[-1]) > SMALLEST_LEVEL:
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    return shapes


def build_pyramid(group: zarr.Group, spec: MaskSpec) -> list[tuple[int, int]]:
    """Write levels 1, 2, ... until one fits in a chunk; holds four shards at a time.

    Args:
        group: The mask's group, with array `0` complete.
        spec: What the store was made for.

    Returns:
        Shapes of all levels, the full resolution first.
    """
    shapes = level_shapes(spec.shape)
    for level, grid in enumerate(level_grids(spec), 1):
        create_level(group, spec, level)
        for shard in np.ndindex(*grid):
            make_level_shard(group, spec, level, shard)
    return shapes


def level_grids(spec: MaskSpec) -> list[tuple[int, int]]:
    """Shards along (y, x) of levels 1, 2, ...

    Example:
        >>> from microseg_ray.runs.store.spec import MaskSpec
        >>> level_grids(MaskSpec((5000, 3000), (), shard=512))
        [(5, 3), (3, 2), (2, 1), (1, 1)]
    """
    return [(-(-height // spec.shard), -(-width // spec.shard)) for height, width in level_shapes(spec.shape)[1:]]


def create_level(group: zarr.Group, spec: MaskSpec, level: int) -> None:
    """Make the empty array of a level, in place of what is there.

    Args:
        group: The mask's group.
        spec: What the store was made for.
        level: From 1.
    """
    create_pixels(group, str(level), level_shapes(spec.shape)[level], spec, overwrite=True)


def make_level_shard(group: zarr.Group, spec: MaskSpec, level: int, shard: tuple[int, int]) -> None:
    """Write one shard of a level; it is made of at most four shards of the level below.

    Args:
        group: The mask's group, with the level's array.
        spec: What the store was made for.
        level: From 1.
        shard: (y, x) index of the shard.
    """
    finer, coarser = level_shapes(spec.shape)[level - 1 : level + 1]
    box, fine = _boxes(shard, spec.shard, coarser, finer)
    pixels = np.asarray(group[str(level - 1)][fine.slices])  # type: ignore[index]
    target: Any = group[str(level)]
    # Not stored in the metadata: a shard of one value is still written.
    target.with_config({"write_empty_chunks": True})[box.slices] = mode_downsample(pixels)


def _boxes(shard: tuple[int, int], side: int, coarser: tuple[int, int], finer: tuple[int, int]) -> tuple[Box, Box]:
    """The pixels of a shard of a level, and those of the level below that it is made of."""
    y0, x0 = shard[0] * side, shard[1] * side
    box = Box(y0, x0, min(y0 + side, coarser[0]), min(x0 + side, coarser[1]))
    return box, Box(2 * box.y0, 2 * box.x0, min(2 * box.y1, finer[0]), min(2 * box.x1, finer[1]))


def stale_levels(group: zarr.Group, spec: MaskSpec) -> list[int]:
    """The levels of a pyramid that are not made of the level below, or cannot be read.

    Args:
        group: The mask's group.
        spec: What the store was made for.

    Returns:
        Their numbers, from 1.
    """
    shapes = level_shapes(spec.shape)
    return [index for index in range(1, len(shapes)) if not _is_made_of_finer(group, spec, shapes, index)]


def _is_made_of_finer(group: zarr.Group, spec: MaskSpec, shapes: list[tuple[int, int]], index: int) -> bool:
    coarser, finer = shapes[index], shapes[index - 1]
    try:
        level, source = group[str(index)], group[str(index - 1)]
        for shard in np.ndindex(*level_grids(spec)[index - 1]):
            box, fine = _boxes(shard, spec.shard, coarser, finer)
            expected = mode_downsample(np.asarray(source[fine.slices]))  # type: ignore[index]
            if not np.array_equal(np.asarray(level[box.slices]), expected):  # type: ignore[index]
                return False
    except (OSError, *UNREADABLE):
        return False
    return True


def label_metadata(
    name: str, spec: MaskSpec, levels: list[tuple[int, int]], pixel_size_um: tuple[float, float] | None
) -> dict[str, Any]:
    """The `ome` attribute of a label image: axes, scales, class names and colours.

    Args:
        name: What viewers call the mask.
        spec: Classes.
        levels: Shapes of the pyramid.
        pixel_size_um: (y, x) in micrometres, or None: then scales are in pixels and axes carry no unit.
    """
    document = label_axes(name, len(levels), pixel_size_um)
    # Written by hand: yaozarrs drops class properties and turns label values into floats (docs/decisions/0005).
    document["image-label"] = {
        "version": "0.5",
        "colors": [
            *(
                {"label-value": index, "rgba": [*bytes.fromhex((item.color or default_color(index))[1:]), 255]}
                for index, item in enumerate(spec.classes)
            ),
            {"label-value": IGNORE_INDEX, "rgba": [0, 0, 0, 0]},
        ],
        # Readers refuse a value that has a colour and no property.
        "properties": [
            *({"label-value": index, "class": item.name} for index, item in enumerate(spec.classes)),
            {"label-value": IGNORE_INDEX, "class": "not measured"},
        ],
    }
    return document


def label_axes(name: str, levels: int, pixel_size_um: tuple[float, float] | None) -> dict[str, Any]:
    """The axes and scales of a label image and its pyramid.

    Args:
        name: What viewers call it.
        levels: How many levels there are.
        pixel_size_um: As for `label_metadata`.
    """
    # A tenth of the start of a program that may never write a mask.
    from yaozarrs import v05

    unit = None if pixel_size_um is None else "micrometer"
    size = pixel_size_um or (1.0, 1.0)
    image = v05.Image(
        multiscales=[
            v05.Multiscale(
                name=text(name),
                axes=[v05.SpaceAxis(name=axis, type="space", unit=unit) for axis in "yx"],
                datasets=[
                    v05.Dataset(
                        path=str(index),
                        coordinateTransformations=[
                            v05.ScaleTransformation(scale=[size[0] * 2**index, size[1] * 2**index])
                        ],
                    )
                    for index in range(levels)
                ],
            )
        ],
    )
    document: dict[str, Any] = image.model_dump(mode="json", exclude_none=True, by_alias=True)
    return document
