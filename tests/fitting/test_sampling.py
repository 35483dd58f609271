"""Which tiles make which batch: one order for any number of workers, and rare classes in every batch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from microseg_ray.fitting.sampling import BatchOrder, batches_of, epoch_order
from microseg_ray.fitting.workers import Workers
from microseg_ray.settings import SamplingSettings


def chosen(sampling=None, **options) -> BatchOrder:
    return BatchOrder(**{"batch": 6, "seed": 0, **options}, sampling=SamplingSettings(**(sampling or {})))


def test_every_rank_sees_its_share_of_one_order():
    whole = epoch_order(chosen(), 50, 3)
    assert [len(batch) for batch in whole] == [6] * 8
    for world, parts in ((2, 1), (3, 1), (1, 2), (2, 3)):
        shares = [batches_of(chosen(accumulate=parts), 50, 3, Workers(rank, world)) for rank in range(world)]
        for step, batch in enumerate(whole):
            seen = [part.places for share in shares for part in share[step]]
            assert len(seen) == world * parts
            assert sorted(np.concatenate(seen)) == sorted(batch.places)
    flat = np.concatenate([batch.places for batch in whole])
    assert len(np.unique(flat)) == 48, "no tile twice in an epoch"
    assert not np.array_equal(flat, np.concatenate([batch.places for batch in epoch_order(chosen(), 50, 4)]))
    few = epoch_order(chosen(batch=8, steps_per_epoch=5), 3, 0)
    assert [len(batch) for batch in few] == [3] * 5


def test_a_tile_that_comes_again_has_another_turn():
    batches = epoch_order(chosen(batch=4, steps_per_epoch=6), 5, 0)
    seen: Counter[int] = Counter()
    for batch in batches:
        for place, turn in zip(batch.places, batch.turns, strict=True):
            assert turn == seen[place]
            seen[place] += 1
    assert max(seen.values()) > 3


@hypothesis_settings(max_examples=60)
@given(
    seed=st.integers(0, 2**40),
    epoch=st.integers(0, 50),
    batch=st.integers(1, 9),
    share=st.floats(0.05, 1),
    table=st.lists(st.lists(st.sampled_from([0, 0, 0, 1, 7, 4000]), min_size=4, max_size=4), min_size=2, max_size=30),
)
def test_every_class_is_in_every_batch_that_is_large_enough(seed, epoch, batch, share, table):
    counts = np.array(table)
    settings = chosen(batch=batch, seed=seed, sampling={"kind": "class_area", "share": share}, steps_per_epoch=7)
    batches = epoch_order(settings, len(counts), epoch, counts)
    present = set(np.flatnonzero(counts.sum(axis=0)))
    size = min(batch, len(counts))
    last_seen = dict.fromkeys(present, -1)
    for step, drawn in enumerate(batches):
        assert len(drawn) == size
        for place, index in zip(drawn.places, drawn.focus, strict=True):
            assert index == -1 or counts[place, index] > 0
        if size >= len(present):
            assert present <= set(drawn.focus)
        for index in set(drawn.focus) & present:
            last_seen[index] = step
        # Smaller batches take the classes in turn.
        assert all(step - seen < -(-len(present) // size) for seen in last_seen.values())
    again = epoch_order(settings, len(counts), epoch, counts)
    assert all(np.array_equal(one.places, other.places) for one, other in zip(batches, again, strict=True))


@pytest.mark.parametrize(("power", "expected"), [(1.0, 0.9), (0.0, 0.5)])
def test_tiles_are_drawn_by_the_area_of_the_class(power, expected):
    """Two tiles hold the class, one of them nine times as much of it."""
    counts = np.array([[100, 9], [100, 1], [100, 0], [100, 0]])
    settings = chosen(batch=2, steps_per_epoch=3000, sampling={"kind": "class_area", "share": 1.0, "power": power})
    places = [
        place
        for batch in epoch_order(settings, 4, 0, counts)
        for place, focus in zip(batch.places, batch.focus, strict=True)
        if focus == 1
    ]
    assert len(places) == 3000
    assert set(places) == {0, 1}
    assert places.count(0) / 3000 == pytest.approx(expected, abs=0.03)


def test_by_area_needs_counts_and_unlabelled_tiles_are_no_trouble():
    by_area = chosen(sampling={"kind": "class_area"})
    with pytest.raises(ValueError, match="needs the pixel counts"):
        epoch_order(by_area, 10, 0)
    batches = epoch_order(by_area, 12, 0, np.zeros((12, 3), int))
    assert sorted(np.concatenate([batch.places for batch in batches])) == list(range(12))


@pytest.mark.parametrize(("batch", "steps", "share"), [(1, 1, 0.5), (2, 3, 0.5), (3, 2, 1.0), (5, 1, 0.6), (9, 2, 1.0)])
def test_every_class_is_drawn_equally_often_over_the_epochs(batch, steps, share):
    """A cycle that began at class 0 in each epoch would never draw the last classes of a short epoch."""
    classes, epochs = 5, 40
    counts = np.full((20, classes), 10)
    order = chosen(batch=batch, steps_per_epoch=steps, sampling={"kind": "class_area", "share": share})
    drawn = np.zeros(classes, int)
    for epoch in range(epochs):
        for drawn_batch in epoch_order(order, len(counts), epoch, counts):
            drawn += np.bincount(drawn_batch.focus[drawn_batch.focus >= 0], minlength=classes)
    assert np.ptp(drawn) <= 1, drawn
    # A resumed fit, and each of N workers, sees the same: the cycle is a function of epoch and step.
    whole = epoch_order(order, len(counts), 17, counts)
    shares = [batches_of(order, len(counts), 17, Workers(rank, 2), counts) for rank in range(2)]
    for step, drawn_batch in enumerate(whole):
        assert sorted(np.concatenate([share[step][0].focus for share in shares])) == sorted(drawn_batch.focus)
