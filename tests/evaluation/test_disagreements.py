"""Places where label and prediction disagree: against plain loops, and in the folder that `evaluate` writes."""

from __future__ import annotations

import csv
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from microseg_ray.evaluation.disagreements import Evidence, Ranking, places, shown_box
from microseg_ray.evaluation.job import evaluate
from microseg_ray.evaluation.pairs import Pair
from microseg_ray.geometry import Box
from microseg_ray.settings import EvaluateSettings

SHAPE = (9, 10)
masks = arrays(np.uint8, SHAPE, elements=st.sampled_from([0, 0, 0, 1, 2, 255]))


def core_by_loops(wrong, tolerance):
    height, width = wrong.shape
    core = np.zeros_like(wrong)
    for y, x in np.ndindex(height, width):
        near = [wrong[j, i] for j in range(height) for i in range(width) if abs(j - y) + abs(i - x) <= tolerance]
        core[y, x] = all(near)
    return core


def components_by_loops(region):
    left, found = {(int(y), int(x)) for y, x in np.argwhere(region)}, []
    while left:
        waiting, own = [left.pop()], set()
        while waiting:
            y, x = waiting.pop()
            own.add((y, x))
            for near in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                if near in left:
                    left.remove(near)
                    waiting.append(near)
        found.append(own)
    return found


@given(masks, masks, st.integers(0, 2), st.integers(0, 2**32 - 1), st.booleans())
def test_places_are_those_of_plain_loops(truth, prediction, tolerance, seed, with_probabilities) -> None:
    probabilities = np.random.default_rng(seed).dirichlet((1, 1, 1), SHAPE).transpose(2, 0, 1)
    evidence = Evidence()

    def predict(_, sink):
        for box in (Box(0, 0, 4, 10), Box(4, 0, 9, 10)):
            sink(box, probabilities[(..., *box.slices)], prediction[box.slices])
        return prediction

    if with_probabilities:
        evidence.of(Pair("a", None, predict)).predict(truth, lambda *_: None)
    wrong = (truth != prediction) & (truth != 255) & (prediction != 255)
    core = core_by_loops(wrong, tolerance)
    expected = []
    for label, guess in ((a, b) for a in range(3) for b in range(3) if a != b):
        for own in components_by_loops(wrong & (truth == label) & (prediction == guess)):
            deep = [place for place in own if core[place]]
            if deep:
                ys, xs = zip(*own, strict=True)
                box = Box(min(ys), min(xs), max(ys) + 1, max(xs) + 1)
                margin = sum(probabilities[guess][place] - probabilities[label][place] for place in deep)
                sure = np.mean([probabilities[guess][place] for place in own])
                expected.append(
                    (box, label, guess, len(own), len(deep), sure, margin if with_probabilities else len(deep))
                )
    found = list(places(truth, prediction, evidence, tolerance))
    key = [(each.box, each.label, each.prediction, each.pixel_count, each.core_pixel_count) for each in found]
    order, there = sorted(range(len(key)), key=lambda n: str(key[n])), sorted(expected, key=lambda row: str(row[:5]))
    assert [key[n] for n in order] == [row[:5] for row in there]
    for place, row in zip((found[n] for n in order), there, strict=True):
        # In 255 steps, each off by half of one at the most.
        assert abs(place.weight - row[6]) <= row[4] / 255 + 1e-9
        assert (place.confidence is None) == (not with_probabilities)
        if place.confidence is not None:
            assert abs(place.confidence - row[5]) <= 0.5 / 255 + 1e-9


@given(st.lists(st.integers(0, 5)), st.integers(0, 4))
def test_the_heaviest_are_kept_the_earlier_first(weights, limit) -> None:
    ranking: Ranking[int] = Ranking(limit)
    for number, weight in enumerate(weights):
        if ranking.takes(weight):
            ranking.add(weight, number)
    assert ranking.ordered() == sorted(range(len(weights)), key=lambda n: (-weights[n], n))[:limit]


@given(st.integers(0, 900), st.integers(0, 900), st.integers(1, 900), st.integers(1, 900), st.integers(1, 900))
def test_what_is_shown_lies_in_the_micrograph_and_holds_the_middle(y, x, height, width, more) -> None:
    box, shape = Box(y, x, y + height, x + width), (y + height + more, x + width + more)
    shown = shown_box(box, shape)
    assert 0 <= shown.y0 < shown.y1 <= shape[0]
    assert 0 <= shown.x0 < shown.x1 <= shape[1]
    middle = (box.y0 + box.y1) // 2, (box.x0 + box.x1) // 2
    assert shown.y0 <= middle[0] < shown.y1
    assert shown.x0 <= middle[1] < shown.x1
    assert max(shown.shape) <= 512
    if max(box.shape) <= 256:
        assert shown.intersection(box) == box


@pytest.fixture
def labelled(tmp_path):
    """Two micrographs whose prediction is right but for a grain that a label forgot, a boundary, and a speck."""
    for folder in ("truth", "guess"):
        (tmp_path / folder).mkdir()
    for name in ("a #1", "b"):
        guess = np.zeros((64, 80), np.uint8)
        guess[10:30, 10:40] = 1
        truth = guess.copy()
        truth[10:30, 38:40] = 0
        truth[50, 50] = 1
        if name == "b":
            guess[40:60, 20:30] = 2
            guess[41, 60:63] = 255
        Image.fromarray(truth).save(tmp_path / "truth" / f"{name}.png")
        Image.fromarray(guess).save(tmp_path / "guess" / f"{name}.png")
    return EvaluateSettings(
        masks=str(tmp_path / "truth"),
        predictions=str(tmp_path / "guess"),
        classes=["matrix", "grain", "pore"],
        output=str(tmp_path / "out"),
        resamples=0,
    )


def test_a_grain_without_a_label_is_found_and_shown(labelled, tmp_path) -> None:
    evaluate(labelled)
    (row,) = csv.DictReader((tmp_path / "out" / "disagreements.csv").read_text("utf-8").splitlines())
    assert row == {
        "rank": "1",
        "micrograph": "b.png",
        "y0": "40",
        "x0": "20",
        "y1": "60",
        "x1": "30",
        "label": "matrix",
        "prediction": "pore",
        "pixel_count": "200",
        "core_pixel_count": str(16 * 6),
        "confidence": "",
        "label_probability": "",
        "weight": "96",
    }
    assert [path.name for path in (tmp_path / "out" / "disagreements").iterdir()] == ["1.png"]
    # Without figures or without places, nothing older stays.
    evaluate(labelled.model_copy(update={"figures": False, "disagreements": 0}))
    assert not (tmp_path / "out" / "disagreements.csv").exists()
    assert not (tmp_path / "out" / "disagreements").exists()
    evaluate(labelled.model_copy(update={"figures": False, "boundary_tolerance": 0.0}))
    rows = list(csv.DictReader((tmp_path / "out" / "disagreements.csv").read_text("utf-8").splitlines()))
    assert [row["pixel_count"] for row in rows] == ["200", "40", "40", "1", "1"]


def test_a_model_says_how_sure_it_is(pairs, new_checkpoint, tmp_path) -> None:
    chosen = EvaluateSettings(
        images=str(pairs / "images"),
        masks=str(pairs / "masks"),
        checkpoint=str(new_checkpoint(tmp_path / "model", seed=3)),
        output=str(tmp_path / "out"),
        threads=1,
        pictures=2,
        disagreements=5,
        resamples=0,
    )
    found = evaluate(chosen)
    rows = list(csv.DictReader((tmp_path / "out" / "disagreements.csv").read_text("utf-8").splitlines()))
    assert len(rows) == 5
    weights = [float(row["weight"]) for row in rows]
    assert weights == sorted(weights, reverse=True)
    for row, kept in zip(rows, found.disagreements, strict=True):
        assert 1 >= float(row["confidence"]) > float(row["label_probability"]) >= 0
        assert kept["micrograph"] in found.per_image
    assert sorted(path.name for path in (tmp_path / "out" / "disagreements").iterdir()) == ["1.png", "2.png"]
    with Image.open(tmp_path / "out" / "disagreements" / "1.png") as image:
        assert image.width > 4 * 64
    assert replace(found, disagreements=[]).document() == found.document()
