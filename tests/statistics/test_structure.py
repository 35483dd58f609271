"""Chords and pairs of a mask, counted in blocks, are those of walking every line pixel by pixel."""

from __future__ import annotations

from collections import Counter
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from microseg_ray.settings import ClassSpec
from microseg_ray.statistics.chords import DIRECTIONS, ChordTable, count_chords
from microseg_ray.statistics.correlation import anisotropy_rows, correlation_rows, count_pairs

CLASSES = tuple(ClassSpec(name=name) for name in ("a", "b"))
MASKS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=14), elements=st.sampled_from([0, 1, 1, 255]))
STEPS = {"x": (0, 1), "y": (1, 0), "down": (1, 1), "up": (-1, 1)}


def lines_of(mask, direction):
    """Every line of pixels of a direction, by its definition."""
    dy, dx = STEPS[direction]
    height, width = mask.shape
    for start in np.ndindex(height, width):
        # A line begins where the step before is outside.
        if not (0 <= start[0] - dy < height and 0 <= start[1] - dx < width):
            places = ((start[0] + k * dy, start[1] + k * dx) for k in range(height + width))
            yield [int(mask[y, x]) for y, x in places if 0 <= y < height and 0 <= x < width]


@given(MASKS, st.integers(1, 9))
def test_chords_are_the_runs_of_every_line(mask, block):
    found = count_chords(mask.shape, lambda box: mask[box.slices], 2, block)
    for direction in DIRECTIONS:
        whole, cut = {0: Counter(), 1: Counter()}, {0: Counter(), 1: Counter()}
        for line in lines_of(mask, direction):
            runs = [(kind, len(list(own))) for kind, own in groupby(line)]
            for place, (kind, length) in enumerate(runs):
                if kind != 255:
                    ends = [runs[near][0] if 0 <= near < len(runs) else 255 for near in (place - 1, place + 1)]
                    (cut if 255 in ends else whole)[kind][length] += 1
        for kind in (0, 1):
            assert found.whole[direction, kind] == whole[kind], direction
            assert found.cut[direction, kind] == cut[kind], direction
        # Every measured pixel is in one chord of each direction.
        pixels = sum(
            n * k for part in (found.whole, found.cut) for kind in (0, 1) for n, k in part[direction, kind].items()
        )
        assert pixels == (mask < 2).sum()


@given(MASKS, st.integers(1, 9))
def test_pairs_are_those_of_all_pixels(mask, block):
    lags = (0, 1, 2, 5)
    found = count_pairs(mask.shape, lambda box: mask[box.slices], 2, lags, block)
    for place, direction in enumerate(DIRECTIONS):
        for number, lag in enumerate(lags):
            pairs = [
                (line[first], line[first + lag])
                for line in lines_of(mask, direction)
                for first in range(len(line) - lag)
                if 255 not in {line[first], line[first + lag]}
            ]
            cell = found.counts[place, number].tolist()
            assert cell[2] == [len(pairs), 2 * len(pairs)]
            for kind in (0, 1):
                assert cell[kind] == [pairs.count((kind, kind)), sum(pair.count(kind) for pair in pairs)]


def test_the_distribution_has_all_chords_and_true_lengths():
    mask = np.tile(np.repeat([0, 1, 0, 1], (3, 4, 5, 8)), (6, 5)).astype(np.uint8)
    chords = count_chords(mask.shape, lambda box: mask[box.slices], 2)
    table = ChordTable(CLASSES)
    table.add(chords, (3.0, 0.5))
    rows = [row for row in table.rows("archive", "") if (row.class_name, row.direction) == ("b", "x")]
    assert {row.unit for row in rows} == {"um"}
    # Chords of 4 px are 2 um, at the start of a bin; those of 8 px are 4 um, and the last of each row is cut.
    filled = {round(row.length_from, 6): row for row in rows if row.chord_count or row.cut_count}
    assert {place: (row.chord_count, row.cut_count) for place, row in filled.items()} == {2.0: (30, 0), 4.0: (24, 6)}
    assert filled[2.0].number_share == pytest.approx(30 / 54)
    assert filled[2.0].length_share == pytest.approx(60 / (60 + 96))
    assert filled[4.0].mean_length == pytest.approx(4.0)
    # Columns have one class: no whole chord, and no share of nothing.
    columns = [row for row in table.rows("archive", "") if (row.class_name, row.direction) == ("b", "y")]
    assert [(row.chord_count, row.cut_count, row.number_share) for row in columns if row.cut_count] == [(0, 60, None)]


def test_squares_have_the_covariance_of_squares():
    """Independent squares of side a: the covariance along x falls linearly to 0 at a, so its length is a / 2."""
    generator = np.random.default_rng(1)
    squares = np.kron(generator.random((50, 50)) < 0.3, np.ones((16, 16))).astype(np.uint8)
    pairs = count_pairs(squares.shape, lambda box: squares[box.slices], 2)
    (_, row) = anisotropy_rows("archive", "", pairs, CLASSES, (0.5, 0.5))
    assert row.correlation_length_x == pytest.approx(4, rel=0.2)
    assert row.correlation_length_y == pytest.approx(4, rel=0.2)
    curve = [
        each
        for each in correlation_rows("archive", "", pairs, CLASSES, None)
        if (each.class_name, each.direction) == ("b", "x")
    ]
    share = squares.mean()
    assert curve[0].probability == pytest.approx(share)
    assert curve[0].normalised_covariance == pytest.approx(1)
    assert {each.lag: each.normalised_covariance for each in curve}[8] == pytest.approx(0.5, abs=0.05)


def test_stretched_structure_has_its_ratio_and_its_direction():
    generator = np.random.default_rng(2)
    stretched = np.kron(generator.random((80, 20)) < 0.5, np.ones((8, 32))).astype(np.uint8)
    for mask, angle in ((stretched, 0.0), (np.ascontiguousarray(stretched.T), 90.0)):
        pairs = count_pairs(mask.shape, lambda box, mask=mask: mask[box.slices], 2)
        row = anisotropy_rows("archive", "", pairs, CLASSES, None)[1]
        assert row.direction_deg == angle
        assert row.anisotropy == pytest.approx(4, rel=0.35)
    # The same, with pixels that are four times as high as wide, is isotropic along x and y.
    pairs = count_pairs(stretched.shape, lambda box: stretched[box.slices], 2)
    row = anisotropy_rows("archive", "", pairs, CLASSES, (4.0, 1.0))[1]
    assert row.correlation_length_x == pytest.approx(row.correlation_length_y, rel=0.25)


def test_what_is_not_known_is_said():
    for value in (0, 255):
        mask = np.full((9, 9), value, np.uint8)
        pairs = count_pairs(mask.shape, lambda box, mask=mask: mask[box.slices], 2)
        rows = anisotropy_rows("archive", "", pairs, CLASSES, None)
        assert all(row.anisotropy is None and row.reason for row in rows)
    half = np.repeat([[0, 1]], 40, axis=1).repeat(80, axis=0).astype(np.uint8)
    pairs = count_pairs(half.shape, lambda box: half[box.slices], 2)
    (_, row) = anisotropy_rows("archive", "", pairs, CLASSES, None)
    assert "still correlated" in row.reason
    assert row.anisotropy is None
