"""The leak audit: micrographs that are in two splits at once, whole, mirrored, rotated or nearly.

A model that is tested on what it was trained on looks better than it is. Three steps, each for what the one before left:
equal bytes (sha256 of files of equal size); a perceptual hash over the 8 symmetries of the micrograph reduced to 128 x 128
px (pHash: 64 bits of the lowest frequencies of a cosine transform; C. Zauner, Implementation and benchmarking of perceptual
image hash functions, 2010; by the ImageHash library); and, for pairs whose hashes are near, the pixels themselves.

A pair is *near* where the reduced micrographs, their coarse shading taken away, correlate by `NEAR` or more; or by `NOISY`
or more where that stands out, with a quarter or less of what is left unexplained under the next best symmetry. On the real
sets that this was made with, recompressed mirrors of one SEM micrograph reach 0.83 (noise) to 0.99, and pictures of
different places 0.14 at most; schematic figures that share a frame reach 0.89, but under several symmetries alike.
Copies that were rotated by another angle, cropped by up to a tenth or inverted are found by their spectra (`geometric`).
Two windows that overlap by less are not found: such micrographs belong into one group (`data.group`).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import astuple, dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Literal

import numpy as np

from microseg_ray.catalog.leaks.geometric import geometric_pairs
from microseg_ray.catalog.leaks.reduced import SIDE, Reduced, Reducer
from microseg_ray.geometry import Box
from microseg_ray.settings import Scaling
from microseg_ray.sources import fingerprint, open_micrograph, open_prepared
from microseg_ray.symmetry import SYMMETRIES
from microseg_ray.tables import write_csv

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from microseg_ray.catalog.rows import CatalogRow
    from microseg_ray.files import Where
    from microseg_ray.settings import SourceSettings
    from microseg_ray.sources import Micrograph
    from microseg_ray.symmetry import Symmetry

__all__ = ["NEAR", "Leak", "find_leaks", "hashes", "reduce_micrograph", "write_leaks"]

NEAR = 0.91
"""Correlation from which two reduced micrographs count as near."""

NOISY = 0.75
"""Correlation from which they do if no other symmetry comes close."""

_BETTER = 4.0

_PLAINEST_FIRST = tuple(SYMMETRIES[number] for number in (0, 4, 6, 2, 5, 3, 1, 7))
_BITS_APART = 12  # of 64; recompressed mirrors differ by up to 10, pictures of different places by 12 and more
_SHADING = 2.0  # px of the reduced micrograph: standard deviation of the Gaussian that is taken away
_BLOCK = 2048
_HASH_ROWS = 256  # micrographs whose hashes are compared with all others at a time


@dataclass(frozen=True)
class Leak:
    """Two micrographs that show the same.

    Attributes:
        first: Name of the first micrograph.
        first_split: Its split.
        second: Name of the second.
        second_split: Its split; the same where pairs within splits were asked for.
        kind: "equal", "mirrored" or "rotated" pixel by pixel, or "near".
        detail: How the first is made from the second.
        correlation: Of the reduced micrographs, 1 at most.
    """

    first: str
    first_split: str
    second: str
    second_split: str
    kind: Literal["equal", "mirrored", "rotated", "near"]
    detail: str
    correlation: float

    def __str__(self) -> str:
        """One line for a person.

        Example:
            >>> str(Leak("a.tif", "train", "b.tif", "test", "near", "mirrored up-down", 0.98))
            'a.tif (train) and b.tif (test): near (mirrored up-down, correlation 0.980)'
        """
        more = f", correlation {self.correlation:.3f}" if self.kind == "near" else ""
        return f"{self.first} ({self.first_split}) and {self.second} ({self.second_split}): {self.kind} ({self.detail}{more})"


def find_leaks(
    rows: Sequence[CatalogRow],
    reduced: Sequence[Reduced],
    *,
    within: bool = False,
    source: SourceSettings | None = None,
) -> list[Leak]:
    """Pairs of micrographs in different splits that are equal, mirrored, rotated or nearly so.

    Two micrographs of one group never make a pair: a group is what belongs together.

    Args:
        rows: The micrographs.
        reduced: The same, reduced.
        within: Pairs inside one split too.
        source: How micrographs are opened, for comparing pixels.

    Returns:
        Sorted by names; each pair once.

    Raises:
        InputError: A micrograph cannot be read any more.
    """
    pairs = dict.fromkeys(_near_hashes(reduced), "")
    # Equal bytes settle a pair without decoding it.
    pairs |= dict.fromkeys(_equal_bytes(rows), "bytes")
    leaks = []
    sharp: dict[int, NDArray[np.float32]] = {}
    for (one, two), known in sorted(pairs.items()):
        if rows[one].group == rows[two].group or (rows[one].split == rows[two].split and not within):
            continue
        # Alphabetical, so that the report does not depend on the order of the rows.
        first, second = sorted((one, two), key=lambda index: rows[index].name)
        if known == "bytes":
            leaks.append(_leak(rows, first, second, ("equal", "the same bytes", 1.0)))
            continue
        for index in (first, second):
            if index not in sharp:
                sharp[index] = _without_shading(reduced[index].means)
        found = _compare(rows, reduced, sharp, (first, second), source)
        if found is not None:
            leaks.append(found)
    named = {frozenset((leak.first, leak.second)) for leak in leaks}

    def wanted(one: int, two: int) -> bool:
        apart = rows[one].group != rows[two].group and (within or rows[one].split != rows[two].split)
        return apart and frozenset((rows[one].name, rows[two].name)) not in named

    for one, two, match in geometric_pairs(reduced, wanted):
        first, second = sorted((one, two), key=lambda index: rows[index].name)
        leaks.append(_leak(rows, first, second, ("near", match.detail, min(1.0, abs(match.correlation)))))
    return sorted(leaks, key=lambda leak: (leak.first, leak.second))


def reduce_micrograph(path: Where, source: SourceSettings | None = None, scaling: Scaling | None = None) -> Reduced:
    """A micrograph read once, block by block, and reduced; only its specimen counts, not its info bar.

    The survey of the tile job, an append and the audit job all reduce through the same opening, so that they compare the
    same pixels.

    Args:
        path: As in `open_micrograph`.
        source: Page, channel and info bar; the defaults where None.
        scaling: Its `flat_field` is applied; the default where None.

    Raises:
        InputError: As `open_micrograph`.
    """
    with open_prepared(path, scaling or Scaling(), source) as micrograph:
        height, width = micrograph.info.specimen.shape
        reducer = Reducer((height, width))
        for y0 in range(0, height, _BLOCK):
            for x0 in range(0, width, _BLOCK):
                box = Box(y0, x0, min(y0 + _BLOCK, height), min(x0 + _BLOCK, width))
                reducer.add(box, micrograph.read(box))
    return reducer.reduced()


def hashes(reduced: Reduced) -> NDArray[np.uint64]:
    """(8,) uint64: the perceptual hashes of a micrograph and its 7 other symmetries, in the order of `_PLAINEST_FIRST`.

    Example:
        >>> means = np.random.default_rng(0).random((SIDE, SIDE), np.float32)
        >>> one, other = hashes(Reduced((90, 70), means)), hashes(Reduced((90, 70), means[:, ::-1]))
        >>> int(np.bitwise_count(one[1] ^ other[0])) <= 2
        True
    """
    import imagehash
    from PIL import Image

    levels = np.rint(reduced.means * 255).astype(np.uint8)
    bits = [
        imagehash.phash(Image.fromarray(np.ascontiguousarray(symmetry.apply(levels)))).hash.ravel()
        for symmetry in _PLAINEST_FIRST
    ]
    return np.packbits(np.array(bits), axis=1).view(np.uint64).ravel()


def write_leaks(path: Where, leaks: Iterable[Leak]) -> None:
    """Write pairs as CSV with the columns of `Leak`, whole or not at all.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "leaks.csv"
        ...     write_leaks(path, [Leak("a.tif", "train", "b.tif", "test", "equal", "the same bytes", 1.0)])
        ...     path.read_text().splitlines()[1]
        'a.tif,train,b.tif,test,equal,the same bytes,1.000000'
    """
    rows = ([*texts, f"{correlation:.6f}"] for *texts, correlation in map(astuple, leaks))
    write_csv(path, tuple(Leak.__dataclass_fields__), rows)


def _equal_bytes(rows: Sequence[CatalogRow]) -> Iterator[tuple[int, int]]:
    sizes: dict[str, list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        sizes[fingerprint(row.image, "stat").split(":")[1]].append(index)
    for members in sizes.values():
        contents: dict[str, list[int]] = defaultdict(list)
        for index in members if len(members) > 1 else ():
            contents[fingerprint(rows[index].image, "content")].append(index)
        for equal in contents.values():
            yield from combinations(equal, 2)


def _near_hashes(reduced: Sequence[Reduced]) -> Iterator[tuple[int, int]]:
    """Pairs whose hashes differ by few bits in one of the symmetries."""
    if len(reduced) < 2:
        return
    every = np.stack([hashes(item) for item in reduced])
    for start in range(0, len(every), _HASH_ROWS):
        block = every[start : start + _HASH_ROWS, 0]
        apart = np.full((len(block), len(every)), 64, np.uint8)
        for symmetry in range(len(_PLAINEST_FIRST)):
            np.minimum(apart, np.bitwise_count(block[:, None] ^ every[None, :, symmetry]), out=apart)
        for one, two in np.argwhere(apart <= _BITS_APART):
            if start + one < two:
                yield int(start + one), int(two)


def _compare(
    rows: Sequence[CatalogRow],
    reduced: Sequence[Reduced],
    sharp: dict[int, NDArray[np.float32]],
    pair: tuple[int, int],
    source: SourceSettings | None,
) -> Leak | None:
    first, second = pair
    fits = _fits(reduced[first], reduced[second], (sharp[first], sharp[second]))
    if not fits:
        return None
    with open_micrograph(rows[first].image, source) as one, open_micrograph(rows[second].image, source) as two:
        for correlation, symmetry in fits:
            if _same_pixels(one, two, symmetry):
                return _leak(rows, first, second, (symmetry.kind, symmetry.name, min(1.0, correlation)))
    correlation, symmetry = fits[0]
    if not reduced[first].means.any():
        return None  # two empty pictures of different brightness show nothing that could leak
    detail = "nearly the same pixels" if symmetry.kind == "equal" else symmetry.name
    return _leak(rows, first, second, ("near", detail, min(1.0, correlation)))


def _fits(
    first: Reduced, second: Reduced, sharp: tuple[NDArray[np.float32], NDArray[np.float32]]
) -> list[tuple[float, Symmetry]]:
    """The symmetries by which the second is near the first, with their correlations, best first."""
    if not first.means.any() and not second.means.any():
        every = [1.0] * len(_PLAINEST_FIRST)
    else:
        every = [float((sharp[0] * symmetry.apply(sharp[1])).mean()) for symmetry in _PLAINEST_FIRST]
    ranked = sorted(every, reverse=True)
    stands_out = ranked[0] >= NOISY and 1 - ranked[0] <= (1 - ranked[1]) / _BETTER
    fits = [
        (correlation, symmetry)
        for correlation, symmetry in zip(every, _PLAINEST_FIRST, strict=True)
        if (correlation >= NEAR or (stands_out and correlation == ranked[0]))
        and _alike(first.shape, symmetry.shape(second.shape))
    ]
    # The plainest symmetry first among equals: a symmetric micrograph is equal before it is mirrored.
    return sorted(fits, key=lambda fit: -round(fit[0], 5))


def _leak(
    rows: Sequence[CatalogRow],
    first: int,
    second: int,
    found: tuple[Literal["equal", "mirrored", "rotated", "near"], str, float],
) -> Leak:
    one, two = rows[first], rows[second]
    return Leak(one.name, one.split, two.name, two.split, *found)


def _alike(one: tuple[int, int], two: tuple[int, int]) -> bool:
    """Whether two shapes have the same proportions, to 2 % (a resized copy rounds)."""
    return abs(one[0] * two[1] / (one[1] * two[0]) - 1) <= 0.02


def _without_shading(means: NDArray[np.float32]) -> NDArray[np.float32]:
    """(128, 128) with mean 0 and standard deviation 1, so that the mean of a product is a correlation."""
    from scipy import ndimage

    sharp = means - ndimage.gaussian_filter(means, _SHADING, mode="nearest")
    spread = float(sharp.std())
    if spread < 1e-7:
        return np.zeros((SIDE, SIDE), np.float32)
    return np.asarray((sharp - sharp.mean()) / spread, dtype=np.float32)


def _same_pixels(first: Micrograph, second: Micrograph, symmetry: Symmetry) -> bool:
    """Whether `first` is `second` after the symmetry, pixel by pixel; read block by block, up to the first difference.

    Raises:
        InputError: One of them is damaged.
    """
    shape = first.info.shape
    if symmetry.shape(second.info.shape) != shape or first.info.channels != second.info.channels:
        return False
    for y0 in range(0, shape[0], _BLOCK):
        for x0 in range(0, shape[1], _BLOCK):
            box = Box(y0, x0, min(y0 + _BLOCK, shape[0]), min(x0 + _BLOCK, shape[1]))
            other = symmetry.apply(second.read(symmetry.origin(box, second.info.shape)))
            if not np.array_equal(first.read(box), other):
                return False
    return True
