"""Which height and width of tiles compute the fewest pixels for a micrograph, where memory bounds the area of a tile.

A shard of side S is divided into k cores of a tile of side s where k (s - 2 h) covers S, h being the halo: along each axis the
number of tiles falls in steps as they grow. The tax is the product of both axes, the memory that of both sides, so that the
best pair is mostly not square: a tile that spans a shard along x has no halo between neighbours there.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from microseg_ray.geometry import ceil_to, floor_to

__all__ = ["TileRule", "least_tax_tile"]

_MOST_CORES = 16
"""Cores of a shard along an axis up to which sizes are compared; with more, nearly all of a tile is halo."""


@dataclass(frozen=True)
class TileRule:
    """What bounds the tiles of a run.

    Attributes:
        area: Pixels of a tile, at most; at least those of the smallest tile, two halos and a stride along each axis.
        largest: Side of a tile, at most; a multiple of the stride.
        halo: In pixels; a multiple of the stride.
        stride: Of the model.
        shard: Side of a mask shard.
    """

    area: int
    largest: int
    halo: int
    stride: int
    shard: int


def least_tax_tile(shape: tuple[int, int], rule: TileRule) -> tuple[int, int]:
    """(height, width) of the tile that computes the fewest pixels for a micrograph; of equal ones the widest.

    Only the smallest tile for each number of cores is worth a look: a larger one computes more in as many tiles.

    Args:
        shape: (height, width) of the micrograph.
        rule: What bounds tiles.

    Example:
        >>> rule = TileRule(area=2300**2, largest=2656, halo=304, stride=16, shard=2048)
        >>> least_tax_tile((8192, 8192), rule), least_tax_tile((2048, 2048), rule)
        ((1632, 2656), (2048, 2048))
    """
    rows, columns = (_choices(length, rule) for length in shape)
    fitting = [
        (height * down * width * across, -width, height)
        for height, down in rows
        for width, across in columns
        if height * width <= rule.area
    ]
    # A rule without room for the smallest tile is refused by `TileGrid`, or before a run.
    _, width, height = min(fitting, default=(0, -columns[0][0], rows[0][0]))
    return height, -width


def _choices(length: int, rule: TileRule) -> list[tuple[int, int]]:
    """Sides of a tile, each with the number of tiles along an axis; the smallest side first."""
    halo, stride = rule.halo, rule.stride
    padded = ceil_to(length, stride)
    # What the tiles of a shard have to cover beside the halos between them; most shards are alike.
    spans = Counter(_span(begin, length, padded, rule) for begin in range(0, length, rule.shard))
    smallest, largest = min(2 * halo + stride, padded), min(rule.largest, padded)
    sides = {smallest, floor_to(largest, stride)}
    for span in spans:
        for cores in range(1, _MOST_CORES + 1):
            sides.add(ceil_to(-(-(span + 2 * (cores - 1) * halo) // cores), stride))
    found = []
    for side in sorted(each for each in sides if smallest <= each <= largest):
        count = sum(times * _cores(span, side, halo) for span, times in spans.items())
        found.append((side, count))
    return found


def _span(begin: int, length: int, padded: int, rule: TileRule) -> int:
    """Pixels of a shard with the halos at its ends; there is none at the micrograph's border."""
    end = min(begin + rule.shard, length)
    return min(end + rule.halo, padded) - max(begin - rule.halo, 0)


def _cores(span: int, side: int, halo: int) -> int:
    """Tiles of a side that cover a span, neighbours sharing two halos."""
    return 1 if side >= span else -(-(span - 2 * halo) // (side - 2 * halo))
