"""What the pairs of a store must agree on: one pixel size, and classes that occur in the masks."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.errors import InputError
from microseg_ray.sources.agreement import empty_class_objection, empty_classes
from microseg_ray.sources.scale.pixel_size import apart

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from numpy.typing import NDArray

    from microseg_ray.settings import ClassSpec, TileSettings
    from microseg_ray.tiles.tasks import Surveyed

__all__ = ["class_notes", "common_pixel_size", "scale_notes"]


def common_pixel_size(
    sizes: Mapping[str, tuple[float, float] | None], settings: TileSettings
) -> tuple[float, float] | None:
    """The pixel size of a store: the median (y, x) of those that are known.

    Args:
        sizes: (y, x) in micrometres by name; None where unknown.
        settings: `scale_tolerance` and `on_scale_mismatch` are used.

    Returns:
        None where no size is known, or where sizes differ and `on_scale_mismatch` is `ignore`.

    Raises:
        InputError: The sizes differ by more than the tolerance, and `on_scale_mismatch` is `stop`.

    Example:
        >>> from microseg_ray.settings import TileSettings
        >>> common_pixel_size({"a": (0.5, 0.5), "b": (0.501, 0.501), "c": None}, TileSettings(output="t"))
        (0.5005, 0.5005)
    """
    known = {name: size for name, size in sizes.items() if size is not None}
    if not known:
        return None
    y, x = (float(value) for value in np.median(np.array(list(known.values())), axis=0))
    finest, coarsest = (pick(known, key=lambda name: known[name][0] * known[name][1]) for pick in (min, max))
    if max(apart(one, other) for one in known.values() for other in (known[finest], known[coarsest], (y, x))) <= (
        settings.scale_tolerance
    ):
        return y, x
    if settings.on_scale_mismatch == "ignore":
        return None
    fine, coarse = known[finest], known[coarsest]
    raise InputError(
        settings.table or settings.images,
        f"micrographs of different pixel sizes cannot train one model: {finest} has {fine[0]:.4g} x {fine[1]:.4g} um, "
        f"{coarsest} has {coarse[0]:.4g} x {coarse[1]:.4g} um",
        "make a store for each magnification, rescale the files, correct the pixel sizes (source.pixel_size_um, "
        "source.pixel_sizes, data.table), raise scale_tolerance, or set on_scale_mismatch to ignore",
    )


def scale_notes(sizes: Iterable[tuple[float, float] | None], common: tuple[float, float] | None) -> list[str]:
    """A note where the pixel size of the store is not that of all micrographs.

    Example:
        >>> scale_notes([(0.5, 0.5), None], (0.5, 0.5))
        ['1 of 2 micrographs have no known pixel size; the store takes the 0.5 x 0.5 um of the others']
    """
    found = list(sizes)
    unknown = sum(size is None for size in found)
    if common is None and unknown < len(found):
        return ["the micrographs have different pixel sizes, so no run can check its scale against the model's"]
    if common is not None and unknown:
        return [
            (
                f"{unknown} of {len(found)} micrographs have no known pixel size; the store takes the "
                f"{common[0]:.4g} x {common[1]:.4g} um of the others"
            )
        ]
    return []


def class_notes(good: Sequence[Surveyed], counts: NDArray[np.int64], classes: Sequence[ClassSpec]) -> list[str]:
    """A note that lists the values of the masks, where a named class has no pixel in the training tiles."""
    values: Counter[int] = Counter()
    for found in good:
        values.update(dict(found.values))
    note = empty_class_objection(empty_classes(counts.sum(axis=0), classes), values, "training tile")
    return [note] if note else []
