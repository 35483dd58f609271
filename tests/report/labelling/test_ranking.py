"""The ranking of places against its definition, word by word."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microseg_ray.report.doubt import window_sums
from microseg_ray.report.labelling.ranking import Candidates, choose, rarity, scores_of


@st.composite
def candidates(draw):
    count = draw(st.integers(0, 14))
    score = st.integers(0, 20).map(lambda value: value / 10)
    scores = draw(st.lists(score, min_size=count, max_size=count))
    owners = draw(st.lists(st.integers(0, 3), min_size=count, max_size=count))
    looks = draw(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=count, max_size=count))
    return scores, owners, looks


def chosen_by_definition(scores, owners, looks, count, labelled):
    chosen = []
    for _ in range(min(count, len(scores))):
        best, most = None, -1.0
        for place in range(len(scores)):
            if place in chosen:
                continue
            near = 0.5 if owners[place] in labelled else 0.0
            for other in chosen:
                away = sum((one - two) ** 2 for one, two in zip(looks[place], looks[other], strict=True))
                near = max(near, (math.exp(-away / 2) + (owners[place] == owners[other])) / 2)
            value = scores[place] * (1 - near)
            if value > most + 1e-12:
                best, most = place, value
        chosen.append(best)
    return chosen


@given(candidates(), st.integers(0, 16), st.sets(st.integers(0, 3)))
def test_the_choice_is_that_of_its_definition(found, count, labelled):
    scores, owners, looks = found
    given_ = Candidates(
        np.array(scores, np.float64), np.array(owners, np.int64), np.array(looks, np.float64).reshape(len(scores), 2)
    )
    chosen, values = choose(given_, count, labelled)
    expected = chosen_by_definition(scores, owners, looks, count, labelled)
    assert len(set(chosen)) == len(chosen) == min(count, len(scores))
    # Values that differ in the last digit only may be taken in either order.
    value_of = {}
    for rank, place in enumerate(expected):
        near = 0.5 if owners[place] in labelled else 0.0
        for other in expected[:rank]:
            away = sum((one - two) ** 2 for one, two in zip(looks[place], looks[other], strict=True))
            near = max(near, (math.exp(-away / 2) + (owners[place] == owners[other])) / 2)
        value_of[rank] = scores[place] * (1 - near)
    assert values == pytest.approx(list(value_of.values()), abs=1e-9)
    assert all(value >= 0 for value in values)


def test_it_is_spread_over_micrographs_and_over_what_places_look_like():
    same = np.zeros((4, 2))
    owners = np.array([0, 0, 0, 1])
    assert choose(Candidates(np.array([1.0, 0.99, 0.98, 0.7]), owners, same), 2)[0] == [0, 3]
    apart = np.array([[0.0, 0.0], [0.0, 0.1], [4.0, 0.0], [0.0, 0.0]])
    assert choose(Candidates(np.array([1.0, 0.99, 0.9, 0.1]), np.arange(4), apart), 2)[0] == [0, 2]
    # A micrograph with labels counts less.
    assert choose(Candidates(np.array([1.0, 0.6]), np.array([0, 1]), apart[:2]), 1, {0})[0] == [1]


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=6))
def test_the_rarest_class_has_rarity_one_and_the_order_is_that_of_the_fractions(counts):
    total = max(1, sum(counts))
    fractions = np.array(counts) / total
    rare = rarity(fractions)
    assert ((rare >= 0) & (rare <= 1)).all()
    for one in range(len(counts)):
        for two in range(len(counts)):
            if 0 < counts[one] < counts[two]:
                assert rare[one] > rare[two]
    if 0 < max(counts) < total:
        assert rare.max() == 1
        assert rare[int(np.argmin(fractions))] == 1


def test_a_rare_class_raises_the_score_at_most_twice():
    shares = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]])
    np.testing.assert_allclose(scores_of(np.full(3, 0.4), shares, np.array([0.0, 1.0])), [0.4, 0.6, 0.8])


@given(st.integers(1, 20), st.integers(1, 20), st.integers(1, 9), st.integers(0, 99))
def test_sums_of_windows(height, width, side, seed):
    values = np.random.default_rng(seed).integers(0, 9, (height, width)).astype(float)
    found = window_sums(values, side)
    for row, column in np.ndindex(*found.shape):
        box = values[row * side : (row + 1) * side, column * side : (column + 1) * side]
        assert box.size
        assert found[row, column] == box.sum()
    assert found.sum() == values.sum()
