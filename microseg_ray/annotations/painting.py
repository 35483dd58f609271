"""Regions to a mask: which class each pixel gets, and who wins where regions overlap."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.geometry import Box

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from microseg_ray.annotations.regions import Region

__all__ = ["rasterise"]


def rasterise(
    regions: Sequence[Region],
    shape: tuple[int, int],
    codes: Mapping[str, int],
    *,
    priority: Sequence[str] = (),
    fill: int = 0,
    box: Box | None = None,
) -> NDArray[np.uint8]:
    """Draw regions into a mask.

    A pixel in several regions belongs to the one that was drawn last. With `priority`, it belongs to the region whose
    class is first in that list; classes that are not named there are weaker than all that are, and among themselves the
    later region wins. What leaves the micrograph is cut off.

    Args:
        regions: In the order in which they were drawn.
        shape: (height, width) of the micrograph in px.
        codes: The mask value of each region's class.
        priority: Classes, strongest first.
        fill: The mask value of pixels in no region.
        box: Only this part of the micrograph; None means all of it.

    Returns:
        uint8 (y, x) of the box's shape.

    Raises:
        ValueError: A region's class is not in `codes`.

    Example:
        >>> from microseg_ray.annotations import Rectangle, Region
        >>> grain, pore = Region("grain", Rectangle(0, 0, 1, 3)), Region("pore", Rectangle(0, 2, 1, 5))
        >>> rasterise([grain, pore], (1, 6), {"grain": 1, "pore": 2}).tolist()
        [[1, 1, 2, 2, 2, 0]]
        >>> rasterise([grain, pore], (1, 6), {"grain": 1, "pore": 2}, priority=["grain"]).tolist()
        [[1, 1, 1, 2, 2, 0]]
    """
    unknown = sorted({region.value for region in regions} - set(codes))
    if unknown:
        raise ValueError(f"no mask value for class {unknown[0]!r}; there are {', '.join(sorted(codes))}")
    whole = Box.of_shape(shape)
    box = whole if box is None else box.intersection(whole)
    mask = np.full(box.shape, fill, np.uint8)
    strength = {name: len(priority) - place for place, name in enumerate(priority)}
    for region in sorted(regions, key=lambda region: strength.get(region.value, 0)):
        inner = region.shape.bounds().intersection(box)
        if inner.area:
            mask[inner.relative_to(box).slices][region.shape.fill(inner)] = codes[region.value]
    return mask
