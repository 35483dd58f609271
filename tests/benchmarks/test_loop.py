"""The simulated person of the benchmark paints what the truth says."""

import argparse

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.loop import WAYS, Plan, play, prepared, random_places, stroke_within
from microseg_ray.geometry import Box
from microseg_ray.report.viewer.strokes import Stroke


@given(st.integers(0, 999), st.sampled_from([1.0, 2.0, 3.5]), st.integers(0, 20))
def test_a_stroke_stays_within_its_class_where_there_is_room(seed, radius, offset):
    generator = np.random.default_rng(seed)
    truth = np.kron(generator.integers(0, 3, (4, 4)), np.ones((16, 16))).astype(np.uint8)
    box = Box(offset, 20 - offset, offset + 40, 60 - offset)
    value = int(truth[box.slices].ravel()[0])
    points = stroke_within(truth, box, value, radius, seed)
    covered = Stroke("brush", value, points, radius).fill(Box.of_shape(truth.shape))
    assert covered.any()
    # Edges of a round pen on pixels: a pixel may be touched that is half a pixel further away.
    wrong = covered & (truth != value)
    inside = covered & (truth == value)
    assert inside.sum() > 4 * wrong.sum()
    if len(points) == 2 and radius >= 2:
        assert wrong.sum() == 0
    for y, x in points:
        assert box.y0 <= y <= box.y1
        assert box.x0 <= x <= box.x1


def test_random_places_lie_inside_and_are_repeatable():
    truths = {"a": np.zeros((40, 60), np.uint8), "b": np.zeros((200, 300), np.uint8)}
    found = random_places(truths, 50, 32, 1)
    assert found == random_places(truths, 50, 32, 1)
    assert {name for name, _ in found} == {"a", "b"}
    for name, box in found:
        assert box.shape == (32, 32)
        assert box.intersection(Box.of_shape(truths[name].shape)) == box


@pytest.mark.slow
def test_few_strokes_do_not_make_the_masks_worse(tmp_path):
    """A round of simulated strokes at the defaults, on simulated micrographs, from a poor model; both ways of choosing places."""
    given = argparse.Namespace(run=None, truth=None, size=384)
    run, truths = prepared(given, tmp_path)
    plan = Plan(rounds=1, places=4, steps=30, side=96, radius=2.5, rate=5e-4, hold=4.0)
    changes = []
    for way in WAYS:
        before, after = (row[3] for row in play(run, truths, plan, way, 0))
        changes.append(after - before)
    assert min(changes) > -0.02, changes
