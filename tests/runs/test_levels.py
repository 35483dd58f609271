"""The pyramid made in pieces is the pyramid made whole."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microseg_ray.errors import StoreError
from microseg_ray.runs.store import pyramid, shard_files
from microseg_ray.runs.store.masks import MaskStore
from tests.runs.mask_stores import filled, mask_file, random_mask, spoil

SMALL = mock.patch.object(pyramid, "SMALLEST_LEVEL", 8)
"""So that small masks have several levels."""
UNFLUSHED = mock.patch.object(shard_files, "sync")
"""A busy disk takes a second for it."""


@settings(max_examples=12, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 45), st.integers(1, 45)),
    shard=st.integers(5, 16),
    seed=st.integers(0, 99),
    kill=st.integers(0, 9),
)
def test_in_pieces_in_any_order_twice_or_killed_the_bytes_are_those_of_the_whole(tree_of, shape, shard, seed, kill):
    mask, chance = random_mask(shape, seed, ignored=True), random.Random(seed)
    with SMALL, UNFLUSHED, tempfile.TemporaryDirectory() as folder:
        whole, parts = (filled(Path(folder, kind, "a.zarr"), mask, shard) for kind in ("whole", "parts"))
        whole.finish((0.5, 0.25), {"verdict": "exact"})
        first = parts.levels.begin()
        count, made, steps = sum(len(shards) for shards in first), set(), 0
        for level, shards in enumerate(first, 1):
            order = list(shards)
            chance.shuffle(order)
            for place in [*order, *order[:1]]:
                if steps == kill:
                    # As after a kill: what was made stays, and no more than that is left out.
                    left = MaskStore.open(parts.path).levels.begin()
                    assert sum(len(each) for each in left) == count - len(made)
                parts.levels.make(level, place)
                made.add((level, place))
                steps += 1
        assert not any(parts.levels.missing())
        assert not parts.finished
        parts.finish((0.5, 0.25), {"verdict": "exact"}, made=True)
        assert tree_of(Path(whole.path)) == tree_of(Path(parts.path))


@pytest.mark.parametrize("change", ["commit", "forget", "unfinish"])
def test_levels_do_not_outlive_the_pixels_that_they_were_made_of(change, tmp_path):
    mask = random_mask((40, 30))
    with SMALL:
        store = filled(tmp_path / "a.zarr", mask, 8)
        every = sum(len(shards) for shards in store.levels.begin())
        store.levels.make(1, (0, 0))
        assert sum(len(shards) for shards in store.levels.begin()) == every - 1
        match change:
            case "commit":
                store.commit((4, 3), np.zeros((8, 6), np.uint8))
            case "forget":
                store.forget((4, 3))
            case _:
                store.unfinish()
        assert sum(len(shards) for shards in store.levels.begin()) == every


def test_a_pyramid_that_lacks_a_shard_is_not_finished(tmp_path):
    with SMALL:
        store = filled(tmp_path / "a.zarr", random_mask((40, 30)), 8)
        for level, shards in enumerate(store.levels.begin(), 1):
            for place in shards:
                store.levels.make(level, place)
        spoil(mask_file(store, (1, 0), "1"), "empty", 0)
        with pytest.raises(StoreError, match="its pyramid lacks shards; run the same command again"):
            store.finish(None, {}, made=True)
        assert not store.finished
        store.finish(None, {})
        assert store.stale_levels() == []
