"""Annotations that are images: exact colours, thresholds, class numbers. They are read band by band."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from microseg_ray.errors import InputError
from microseg_ray.settings.classes import IGNORE_INDEX
from microseg_ray.sources import open_micrograph
from microseg_ray.sources.bounds import reading
from microseg_ray.sources.opening import open_pixels

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from microseg_ray.files import Where
    from microseg_ray.geometry import Box
    from microseg_ray.settings import SourceSettings
    from microseg_ray.settings.annotate import ThresholdRule

__all__ = ["ColorLabels", "IndexLabels", "Labels", "ThresholdLabels", "by_color", "by_threshold"]

# Above it the file is no annotation with a few stray colours, and to list them all would only take memory.
_MAX_LISTED = 4096


class Labels(Protocol):
    """An annotation image, as mask values by region."""

    shape: tuple[int, int]
    unmatched: Counter[str]

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Mask values (y, x) of a box; what matches nothing is counted in `unmatched`."""
        ...

    def close(self) -> None:
        """Release the file."""
        ...


def by_color(
    pixels: NDArray[Any], colors: Mapping[str, int], other: int | None = None
) -> tuple[NDArray[np.uint8], Counter[str]]:
    """Mask of exactly coloured pixels. No colour is near enough: one step in one channel is another colour.

    Args:
        pixels: uint8 or uint16, (channel, y, x) with 1 (gray) or 3 channels. In uint16 a full channel is 65535.
        colors: "#rrggbb": mask value.
        other: Mask value of every other colour; None makes it 255 and counts the colours.

    Returns:
        uint8 (y, x), and how many pixels of which other colour there were.

    Raises:
        ValueError: The pixels are not uint8 or uint16.

    Example:
        >>> pixels = np.array([[[0, 90]], [[0, 90]], [[255, 90]]], np.uint8)
        >>> by_color(pixels, {"#0000ff": 1}, other=0)
        (array([[1, 0]], dtype=uint8), Counter())
        >>> by_color(pixels.astype(np.uint16) * 257, {"#0000ff": 1})
        (array([[ 1, 255]], dtype=uint8), Counter({'#5a5a5a': 1}))
    """
    if pixels.dtype not in {np.dtype(np.uint8), np.dtype(np.uint16)}:
        raise ValueError(f"pixels are {pixels.dtype}, not uint8 or uint16")
    deep = pixels.dtype == np.uint16
    bits = 16 if deep else 8
    red, green, blue = pixels if len(pixels) == 3 else (pixels[0],) * 3
    packed = red.astype(np.uint64 if deep else np.uint32)
    for channel in (green, blue):
        packed = (packed << packed.dtype.type(bits)) | channel
    mask = np.full(packed.shape, IGNORE_INDEX if other is None else other, np.uint8)
    matched = np.zeros(packed.shape, bool)
    for color, code in colors.items():
        parts = [int(color[place : place + 2], 16) * (257 if deep else 1) for place in (1, 3, 5)]
        here = packed == (parts[0] << 2 * bits | parts[1] << bits | parts[2])
        mask[here] = code
        matched |= here
    if other is not None:
        return mask, Counter()
    values, counts = np.unique(packed[~matched], return_counts=True)
    return mask, Counter({_shown(int(value), bits): int(count) for value, count in zip(values, counts, strict=True)})


def by_threshold(
    values: NDArray[Any], rules: Sequence[ThresholdRule], codes: Mapping[str, int], other: int = IGNORE_INDEX
) -> tuple[NDArray[np.uint8], int]:
    """Mask by intervals of intensity; the first rule that fits a pixel wins.

    Args:
        values: Intensities (y, x).
        rules: In order.
        codes: Class name: mask value.
        other: Mask value of pixels that fit no rule.

    Returns:
        uint8 (y, x), and how many pixels fit no rule.

    Example:
        >>> from microseg_ray.settings.annotate import ThresholdRule
        >>> rules = [ThresholdRule(name="pore", below=10), ThresholdRule(name="grain", at_least=20)]
        >>> by_threshold(np.array([[9, 10, 20]]), rules, {"pore": 2, "grain": 1})
        (array([[  2, 255,   1]], dtype=uint8), 1)
    """
    mask = np.full(values.shape, other, np.uint8)
    free = np.ones(values.shape, bool)
    for rule in rules:
        fits = free.copy()
        if rule.above is not None:
            fits &= values > rule.above
        if rule.at_least is not None:
            fits &= values >= rule.at_least
        if rule.below is not None:
            fits &= values < rule.below
        if rule.at_most is not None:
            fits &= values <= rule.at_most
        mask[fits] = codes[rule.name]
        free &= ~fits
    return mask, int(np.count_nonzero(free))


class ColorLabels:
    """An image whose exact colours are classes.

    Args:
        path: PNG or TIFF, 8 or 16 bits a channel, with or without alpha, also with a palette.
        colors: "#rrggbb": mask value.
        other: Mask value of every other colour; None makes it 255 and counts the colours.

    Raises:
        InputError: JPEG, fractions, or whatever makes an image unreadable.
    """

    def __init__(self, path: Where, colors: Mapping[str, int], other: int | None) -> None:
        self._path, self._colors, self._other = str(path), colors, other
        self._pixels = open_pixels(self._path, labels=False)
        self.shape, self.unmatched = self._pixels.shape, Counter[str]()
        dtype = np.dtype(self._pixels.dtype).newbyteorder("=")
        if self._pixels.format == "jpeg" or dtype not in {np.dtype(np.uint8), np.dtype(np.uint16)}:
            self.close()
            what = "a JPEG, whose compression changes colours" if self._pixels.format == "jpeg" else f"in {dtype}"
            raise InputError(self._path, f"the annotation is {what}", "save it as an 8-bit or 16-bit PNG or TIFF")

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Mask values of a box."""
        with reading(self._path, "the annotation cannot be read"):
            raw = self._pixels.read(box)
        mask, unmatched = by_color(raw.astype(raw.dtype.newbyteorder("="), copy=False), self._colors, self._other)
        _add(self.unmatched, unmatched)
        return mask

    def close(self) -> None:
        """Release the file."""
        self._pixels.close()


class ThresholdLabels:
    """An image whose intensities are classes.

    Args:
        path: A micrograph.
        rules: In order; the first that fits wins.
        codes: Class name: mask value.
        channel: "mean" of the channels, or "red", "green", "blue"; gray has only one.
        other: Mask value of pixels that fit no rule, None makes it 255.
        source: Which page and channel is the micrograph.

    Raises:
        InputError: The file is no micrograph.
    """

    def __init__(
        self,
        path: Where,
        rules: Sequence[ThresholdRule],
        codes: Mapping[str, int],
        channel: str,
        other: int | None,
        source: SourceSettings | None = None,
    ) -> None:
        self._rules, self._codes, self._other = rules, codes, other
        self._micrograph = open_micrograph(path, source)
        self._channel = {"red": 0, "green": 1, "blue": 2}.get(channel)
        self.shape, self.unmatched = self._micrograph.info.shape, Counter[str]()

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Mask values of a box."""
        raw = self._micrograph.read(box)
        if self._channel is None:
            values = raw.sum(axis=0, dtype=np.float64) / len(raw)
        else:
            values = raw[self._channel if len(raw) > 1 else 0]
        mask, unmatched = by_threshold(
            values, self._rules, self._codes, IGNORE_INDEX if self._other is None else self._other
        )
        if self._other is None and unmatched:
            self.unmatched["no threshold fits"] += unmatched
        return mask

    def close(self) -> None:
        """Release the file."""
        self._micrograph.close()


class IndexLabels:
    """An image that holds numbers of classes: gray, or a palette, whose numbers are kept.

    Args:
        path: PNG or TIFF.
        numbers: Number in the image: mask value; what is not here is unmatched and becomes 255.

    Raises:
        InputError: Colour, JPEG, or whatever makes an image unreadable.
    """

    def __init__(self, path: Where, numbers: Mapping[int, int]) -> None:
        self._path, self._numbers = str(path), numbers
        self._pixels = open_pixels(self._path, labels=True)
        self.shape, self.unmatched = self._pixels.shape, Counter[str]()

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Mask values of a box."""
        with reading(self._path, "the annotation cannot be read"):
            raw = self._pixels.read(box)
        if len(raw) > 1 and any((raw[0] != other).any() for other in raw[1:]):
            raise InputError(self._path, "the annotation is a colour image", "use --format colors")
        mask = np.full(raw.shape[1:], IGNORE_INDEX, np.uint8)
        matched = np.zeros(raw.shape[1:], bool)
        for number, code in self._numbers.items():
            here = raw[0] == number
            mask[here] = code
            matched |= here
        values, counts = np.unique(raw[0][~matched], return_counts=True)
        _add(self.unmatched, Counter({f"{value:g}": int(n) for value, n in zip(values, counts, strict=True)}))
        return mask

    def close(self) -> None:
        """Release the file."""
        self._pixels.close()


def _shown(packed: int, bits: int) -> str:
    parts = [(packed >> place * bits) & ((1 << bits) - 1) for place in (2, 1, 0)]
    if bits == 16 and any(part % 257 for part in parts):
        return str(tuple(parts))
    return "#" + "".join(f"{part // (257 if bits == 16 else 1):02x}" for part in parts)


def _add(total: Counter[str], more: Counter[str]) -> None:
    for name, count in more.items():
        total[name if name in total or len(total) < _MAX_LISTED else "others"] += count
