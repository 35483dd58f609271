"""Every rule by which a checkpoint, a tile store, a config and the data must agree: statements in, objections out.

The functions are pure. The jobs call them before anything is computed and decide what an objection does: a `SettingsError` for
a whole job, an `InputError` that sets one micrograph aside, or a note. Each returns a text, and "" where nothing is wrong.

A model knows intensities as they were after scaling in training. The same micrograph saved with another bit depth, or as
floats in another unit, is scaled to other numbers, and the model answers with confidence and wrongly. Masks hold numbers, and
only the order of the classes gives them names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from microseg_ray.settings import IGNORE_INDEX, Frozen

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from microseg_ray.settings import ClassSpec, Scaling

__all__ = [
    "Intensities",
    "channel_objection",
    "class_order_objection",
    "empty_class_objection",
    "empty_classes",
    "float_note",
    "float_objection",
    "intensity_note",
    "intensity_objection",
    "page_objection",
    "rescaled_limits",
    "shape_objection",
    "used_bits",
    "value_objection",
]

_PERCENTILES = (1.0, 50.0, 99.0)
_DEPTHS = (8, 12, 16, 32)
_APART = 8.0
"""Times by which the full scale may differ before it is a certain mismatch: 12 bits of 16 are 16 times, 14 bits are 4."""
FLOAT_SLACK = 0.1
"""By which floats may leave 0 to 1 with a note only: a dark frame taken away leaves values just below 0, filters overshoot."""
_ROUNDING = 1e-3
_OUTLIERS = 0.001
"""Share of pixels at each end, hot and dead ones, that cannot stop a micrograph; they are noted."""
_NAMED = 3


class Intensities(Frozen):
    """The intensities that a model was trained on.

    `dtype` is the type of the images, `bits` how many bits their largest value takes (8, 12, 16 or 32; 0 for floats), and
    `percentiles` are the 1st, 50th and 99th after scaling.

    Example:
        >>> Intensities(dtype="uint16", bits=12, percentiles=(0.01, 0.03, 0.06)).bits
        12
    """

    dtype: str
    bits: int = Field(ge=0, le=32)
    percentiles: tuple[float, float, float]

    @classmethod
    def of(cls, dtype: str, largest: float, scaled: NDArray[np.floating[Any]]) -> Intensities:
        """Describe a sample of scaled intensities.

        Args:
            dtype: Of the images.
            largest: The largest value before scaling.
            scaled: The sample, after scaling.
        """
        low, middle, high = (round(float(value), 6) for value in np.percentile(scaled, _PERCENTILES))
        return cls(dtype=dtype, bits=used_bits(dtype, largest), percentiles=(low, middle, high))


def used_bits(dtype: str, largest: float) -> int:
    """Bits that a camera's data take, of 8, 12, 16 and 32; 0 for floats.

    Example:
        >>> used_bits("uint16", 3977), used_bits("uint16", 200), used_bits("uint8", 20), used_bits("float32", 255.0)
        (12, 8, 8, 0)
    """
    if np.dtype(dtype).kind == "f":
        return 0
    return next(bits for bits in _DEPTHS if largest < 2**bits)


def float_objection(low: float, high: float) -> str:
    """Why floats cannot be taken as they are: they leave 0 to 1 by more than `FLOAT_SLACK`.

    Args:
        low: Lowest intensity, or the 0.1st percentile, so that single hot or dead pixels do not count.
        high: Highest intensity, or the 99.9th percentile.

    Example:
        >>> float_objection(0.0, 255.0)
        'its float intensities go from 0 to 255, and scaling `dtype` takes 0 to 1 as black to white'
        >>> float_objection(-0.05, 1.05)
        ''
    """
    return "" if low >= -FLOAT_SLACK and high <= 1 + FLOAT_SLACK else float_note(low, high)


def float_note(low: float, high: float) -> str:
    """What is said of floats that leave 0 to 1 at all.

    Example:
        >>> float_note(-0.05, 1.0), float_note(0.0, 1.0)
        ('its float intensities go from -0.05 to 1, and scaling `dtype` takes 0 to 1 as black to white', '')
    """
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:
        return ""
    return f"its float intensities go from {low:g} to {high:g}, and scaling `dtype` takes 0 to 1 as black to white"


def intensity_objection(scaling: Scaling, trained: Intensities | None, dtype: str, sample: NDArray[Any]) -> str:
    """Why these intensities are certainly not those that the model knows; "" where they may be.

    Only `scaling.kind: dtype` is judged: it takes the range of the type for that of the data. `fixed` states intensities,
    `percentile` takes them from each micrograph.

    Args:
        scaling: The model's.
        trained: From the model's card; None where the card does not say.
        dtype: Of the micrograph.
        sample: Its intensities, before scaling.

    Example:
        >>> from microseg_ray.settings import Scaling
        >>> intensity_objection(Scaling(), None, "float32", np.array([0.0, 254.5]))
        'its float intensities go from 0 to 254.5, and scaling `dtype` takes 0 to 1 as black to white'
        >>> trained = Intensities(dtype="uint8", bits=8, percentiles=(0.1, 0.5, 0.9))
        >>> intensity_objection(Scaling(), trained, "uint16", np.array([90, 3977]))
        'its data take 12 of the 16 bits of uint16, and the model was trained on 8 of the 8 bits of uint8'
        >>> intensity_objection(Scaling(), trained, "uint16", np.array([90, 60000]))
        ''
    """
    if scaling.kind != "dtype" or not sample.size:
        return ""
    if np.dtype(dtype).kind == "f":
        return float_objection(*_inner_range(sample))
    if trained is None or trained.bits == 0:
        return ""
    bits = used_bits(dtype, float(sample.max()))
    here, there = _share(dtype, bits), _share(trained.dtype, trained.bits)
    if max(here, there) < _APART * min(here, there):
        return ""
    return (
        f"its data take {bits} of the {_size(dtype)} bits of {dtype}, and the model was trained on {trained.bits} of the "
        f"{_size(trained.dtype)} bits of {trained.dtype}"
    )


def intensity_note(trained: Intensities | None, limits: tuple[float, float], sample: NDArray[Any]) -> str:
    """What is to be said of intensities that lie elsewhere than in training; "" where they do not.

    Args:
        trained: From the model's card; None where the card does not say.
        limits: Intensities that become 0 and 1.
        sample: The micrograph's intensities, before scaling.

    Example:
        >>> trained = Intensities(dtype="uint8", bits=8, percentiles=(0.1, 0.5, 0.9))
        >>> intensity_note(trained, (0.0, 255.0), np.array([5, 10, 15]))
        'its median intensity is 0.039 after scaling, outside the 0.1 to 0.9 that the model was trained on'
    """
    if not sample.size:
        return ""
    low, high = float(np.nanmin(sample)), float(np.nanmax(sample))
    if sample.dtype.kind == "f" and limits == (0.0, 1.0) and float_note(low, high):
        return float_note(low, high)
    if trained is None:
        return ""
    middle = (float(np.nanmedian(sample)) - limits[0]) / (limits[1] - limits[0])
    low, _, high = trained.percentiles
    if low <= middle <= high:
        return ""
    return (
        f"its median intensity is {middle:.2g} after scaling, outside the {low:.2g} to {high:.2g} that the model was "
        "trained on"
    )


def rescaled_limits(trained: Intensities | None, sample: NDArray[Any]) -> tuple[float, float]:
    """Limits at which the data take the share of the scale that they took in training.

    Args:
        trained: From the model's card; None: the full scale.
        sample: Its intensities, before scaling.

    Example:
        >>> trained = Intensities(dtype="uint8", bits=8, percentiles=(0.1, 0.5, 0.9))
        >>> rescaled_limits(trained, np.array([90, 3977])), rescaled_limits(None, np.array([0.0, 254.5]))
        ((0.0, 4095.0), (0.0, 255.0))
    """
    high = float(np.nanmax(sample))
    bits = next((bits for bits in _DEPTHS if high < 2**bits), _DEPTHS[-1])
    share = 1.0 if trained is None or trained.bits == 0 else _share(trained.dtype, trained.bits)
    return 0.0, float(2**bits - 1) / share


def _size(dtype: str) -> int:
    return np.dtype(dtype).itemsize * 8


def _share(dtype: str, bits: int) -> float:
    """Share of the type's range that data of so many bits take."""
    return float(2**bits - 1) / float(2 ** _size(dtype) - 1)


def _inner_range(sample: NDArray[Any]) -> tuple[float, float]:
    """Lowest and highest intensity without the outermost 0.1 % at each end, where the sample has so many pixels."""
    low, high = np.quantile(sample, [_OUTLIERS, 1 - _OUTLIERS], method="nearest")
    return float(low), float(high)


def channel_objection(channels: int, trained: int) -> str:
    """Why a micrograph's channels do not suit a model; a gray one suits every model.

    Args:
        channels: Of the micrograph.
        trained: Channels that the model sees.

    Example:
        >>> channel_objection(3, 1), channel_objection(1, 3)
        ('has 3 different colour channels, the model sees 1', '')
    """
    return "" if channels in {1, trained} else f"has {channels} different colour channels, the model sees {trained}"


def class_order_objection(named: Sequence[ClassSpec], known: Sequence[ClassSpec], where: str) -> str:
    """Why named classes are not those of a checkpoint, store or run, in the same order.

    Masks hold indices, and the order is what gives them names. Upper and lower case are the same. No named class is no
    statement.

    Args:
        named: By the user.
        known: Of the checkpoint, store or run.
        where: Which one.

    Example:
        >>> from microseg_ray.settings import ClassSpec
        >>> pore, grain = ClassSpec(name="pore"), ClassSpec(name="grain")
        >>> class_order_objection((grain, pore), (pore, grain), "model/best")
        'grain, pore are not the classes in order of model/best, which has pore, grain; masks hold indices, so that ...'
        >>> class_order_objection((), (pore, grain), "model/best"), class_order_objection((pore,), (pore,), "model/best")
        ('', '')
    """
    ours, theirs = ([spec.name.strip().casefold() for spec in each] for each in (named, known))
    if not ours or ours == theirs:
        return ""
    return (
        f"{_names(named)} are not the classes in order of {where}, which has {_names(known)}; masks hold indices, so that "
        "pixels and figures would get other class names"
    )


def value_objection(values: Mapping[int, int], classes: int) -> str:
    """Why a mask's values are not all classes.

    Args:
        values: Pixels of each value of the mask.
        classes: Number of named classes.

    Example:
        >>> value_objection({0: 5, 7: 2, 255: 1}, 3), value_objection({0: 5, 255: 1}, 3)
        ('the mask holds the value 7, but only classes 0 to 2 are named', '')
    """
    strange = sorted(set(values) - set(range(classes)) - {IGNORE_INDEX})
    return f"the mask holds the value {strange[0]}, but only classes 0 to {classes - 1} are named" if strange else ""


def empty_classes(counts: Sequence[int] | NDArray[np.integer[Any]], classes: Sequence[ClassSpec]) -> list[str]:
    """Classes without a pixel, as texts that name the mask value.

    Args:
        counts: Pixels of each class.
        classes: In the order of the mask values.

    Example:
        >>> from microseg_ray.settings import ClassSpec
        >>> empty_classes([8, 0], (ClassSpec(name="matrix"), ClassSpec(name="pore")))
        ["'pore' (mask value 1)"]
    """
    return [f"{item.name!r} (mask value {index})" for index, item in enumerate(classes) if not counts[index]]


def empty_class_objection(lacking: Sequence[str], values: Mapping[int, int], place: str) -> str:
    """Why masks in which a named class has no pixel are suspicious: 255 was drawn for it, say.

    Args:
        lacking: From `empty_classes`.
        values: Pixels of each value, over all masks.
        place: Where the class has no pixel.

    Example:
        >>> empty_class_objection(["'pore' (mask value 1)"], {0: 60, 255: 40}, "true mask")
        "no true mask has a pixel of class 'pore' (mask value 1); the masks hold the values 0 (60.00%), 255 (40.00%) ..."
        >>> empty_class_objection([], {0: 60, 1: 40}, "true mask")
        ''
    """
    total = sum(values.values())
    if not lacking or not total:
        return ""
    listed = ", ".join(f"{value} ({count / total:.2%})" for value, count in sorted(values.items()) if count)
    ignored = f" ({IGNORE_INDEX} means no class)" if values.get(IGNORE_INDEX) else ""
    return (
        f"no {place} has a pixel of class {', '.join(lacking[:_NAMED])}; the masks hold the values {listed}{ignored}: masks must "
        "hold 0, 1, 2 ... in the order of `classes`, so renumber masks that were drawn with other values"
    )


def shape_objection(mask: tuple[int, ...], other: tuple[int, ...], name: str) -> str:
    """Why a mask does not lie on the pixel grid of its micrograph, or of the other mask.

    Args:
        mask: (height, width) of the mask.
        other: (height, width) of what it is compared with.
        name: What that is.

    Example:
        >>> shape_objection((2, 3), (2, 4), "its micrograph"), shape_objection((2, 3), (2, 3), "its micrograph")
        ('the mask is 2 x 3 px, its micrograph 2 x 4', '')
    """
    if mask == other:
        return ""
    return f"the mask is {mask[0]} x {mask[1]} px, {name} {other[0]} x {other[1]}"


def page_objection(mask: int, image: int) -> str:
    """Why the pages of a mask and of its micrograph do not belong together.

    A mask of one page belongs to the page that is read; a mask of as many pages as its micrograph has one for each.

    Args:
        mask: Pages of the mask.
        image: Pages of the micrograph.

    Example:
        >>> page_objection(3, 1), page_objection(3, 3), page_objection(1, 3)
        ('the mask has 3 pages, its micrograph 1', '', '')
    """
    return "" if mask in {1, image} else f"the mask has {mask} pages, its micrograph {image}"


def _names(classes: Sequence[ClassSpec]) -> str:
    return ", ".join(spec.name for spec in classes)
