"""Hypothesis strategies that several test files share."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from microseg_ray.geometry import TileGrid, ceil_to
from microseg_ray.stitching import EnginePlan

__all__ = ["grids", "plans", "shapes"]

STRIDES = (1, 1, 2, 3, 4, 5, 7, 8)


def shapes(longest: int = 60) -> st.SearchStrategy[tuple[int, int]]:
    """(height, width) of a micrograph: small ones, a single row, a single pixel."""
    sides = st.integers(1, longest)
    return st.tuples(sides, sides) | st.tuples(st.just(1), st.integers(1, 4 * longest)) | st.just((1, 1))


@st.composite
def grids(draw: st.DrawFn, *, longest: int = 60, least_halo: int = 0, sharded: bool | None = None) -> TileGrid:
    """Any grid that can be built: odd strides, halos up to 45 % of the tile, tiles larger than the micrograph.

    Args:
        draw: Hypothesis' own.
        longest: Longest side of the micrograph, except for a single row.
        least_halo: Smallest halo.
        sharded: Whether cores nest in shards; None: either.
    """
    shape = draw(shapes(longest))
    stride = draw(st.sampled_from(STRIDES))
    tiles, halos, shards = [], [], []
    for _ in range(2):
        halo = draw(st.integers(least_halo, least_halo + 12))
        tiles.append(2 * ceil_to(halo, stride) + stride * draw(st.integers(1, 6)))
        halos.append(halo)
        shards.append(stride * draw(st.integers(1, 12)))
    use_shard = draw(st.booleans()) if sharded is None else sharded
    return TileGrid(
        shape, (tiles[0], tiles[1]), (halos[0], halos[1]), stride, (shards[0], shards[1]) if use_shard else None
    )


@st.composite
def plans(draw: st.DrawFn, *, least_halo: int = 0, blends: tuple[str, ...] = ("crop",), **fixed: Any) -> EnginePlan:
    """Any plan of a run.

    Args:
        draw: Hypothesis' own.
        least_halo: Smallest halo, for models that see their neighbours.
        blends: Blends to choose from.
        fixed: Fields with a value of their own.
    """
    stride = draw(st.sampled_from(STRIDES))
    halo = draw(st.integers(least_halo, least_halo + 6))
    chosen = {
        "tile": 2 * ceil_to(halo, stride) + stride * draw(st.integers(1, 12)),
        "halo": halo,
        "stride": stride,
        "shard": stride * draw(st.integers(1, 12)),
        "batch": draw(st.integers(1, 9)),
        "blend": draw(st.sampled_from(blends)),
        "overlap": draw(st.floats(0, 0.9)),
    }
    return EnginePlan(**{**chosen, **fixed})
