"""Two evaluations of the same masks compared, groups, and withheld pixels, by the job."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from microseg_ray.errors import SettingsError
from microseg_ray.evaluation.confusions import read_confusions
from microseg_ray.evaluation.job import evaluate
from microseg_ray.settings import ClassSpec, EvaluateSettings
from microseg_ray.sources import read_mask

CLASSES = ["matrix", "grain", "pore"]
SPECS = tuple(ClassSpec(name=name) for name in CLASSES)


def rows_of(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def predictions(pairs, tmp_path_factory):
    """Two sets of predicted masks, one with 5 % and one with 15 % wrong pixels; a corner is withheld."""
    root = tmp_path_factory.mktemp("predictions")
    for name, share in (("good", 0.05), ("poor", 0.15)):
        (root / name).mkdir()
        for number, path in enumerate(sorted((pairs / "masks").iterdir())):
            generator = np.random.default_rng(number)
            mask = read_mask(path).copy()
            wrong = (generator.random(mask.shape) < share) | (mask == 255)
            mask[wrong] = generator.integers(0, 3, wrong.sum())
            mask[:8, :8] = 255
            Image.fromarray(mask).save(root / name / path.name)
    return root


def judge(pairs, predictions, output, **options):
    given = {"masks": f"{pairs}/masks", "predictions": str(predictions), "output": str(output), "figures": False}
    return evaluate(EvaluateSettings(**{**given, "classes": CLASSES, "resamples": 400, **options}))


@pytest.fixture(scope="module")
def good(pairs, predictions, tmp_path_factory):
    output = tmp_path_factory.mktemp("judged") / "good"
    judge(pairs, predictions / "good", output, group=r"^(\d+)_")
    return output


def test_intervals_are_over_groups_and_the_groups_have_their_table(good):
    document = json.loads((good / "metrics.json").read_text())
    assert document["intervals"]["of"] == "groups"
    assert document["intervals"]["units"] == 4
    for key in ("pixel_accuracy", "mean_iou"):
        found = document["intervals"][key]
        assert found["value"] == pytest.approx(document["pooled"][key], abs=1e-12)
        assert found["low"] <= found["value"] <= found["high"]
    table = {(row["figure"], row["class"]): row for row in rows_of(good / "metric_intervals.csv")}
    assert float(table["iou", "pore"]["low"]) == document["intervals"]["classes"]["pore"]["iou"]["low"]
    groups = rows_of(good / "groups.csv")
    assert [row["group"] for row in groups] == ["0", "1", "2", "3"]
    assert [row["micrographs"] for row in groups] == ["3"] * 4
    confusions = read_confusions(good, SPECS)
    pooled = sum(confusions.matrices[f"2_{view}.png"].counts for view in "abc")
    assert float(groups[2]["pixel_accuracy"]) == pytest.approx(np.trace(pooled) / pooled.sum())
    assert float(groups[2]["predicted_fraction_pore"]) == pytest.approx(pooled.sum(axis=0)[2] / pooled.sum())


def test_a_better_prediction_is_found_better(pairs, predictions, good, microseg, tmp_path):
    """A renamed prediction is paired by its stem; the last one is missing here."""
    masks, guesses = tmp_path / "masks", tmp_path / "guesses"
    masks.mkdir()
    guesses.mkdir()
    for path in sorted((pairs / "masks").iterdir())[:-1]:
        Image.open(path).save(masks / f"{path.stem}.tif")
        Image.open(predictions / "poor" / path.name).save(guesses / f"{path.stem}.tif")
    ran = microseg(
        *("evaluate", "--masks", masks, "--predictions", guesses, "--output", tmp_path / "o", "--figures", "false"),
        *("--classes", '["matrix", "grain", "pore"]', "--against", good),
    )
    assert ran.code == 0, ran.err
    assert "judged only there" in " ".join(ran.out.split())
    document = json.loads((tmp_path / "o/metrics.json").read_text())["comparison"]
    assert (document["micrographs"], document["only_here"], document["only_there"]) == (11, 0, 1)
    accuracy = document["pixel_accuracy"]
    assert accuracy["high"] < 0
    assert accuracy["value"] == pytest.approx(accuracy["ours"] - accuracy["theirs"])
    assert accuracy["share_above"] == 0
    rows = {(row["figure"], row["class"]): row for row in rows_of(tmp_path / "o/comparison.csv")}
    assert float(rows["pixel_accuracy", "pooled"]["value"]) == accuracy["value"]


def test_what_cannot_be_compared_is_refused(pairs, predictions, good, tmp_path):
    with pytest.raises(SettingsError, match="not there"):
        judge(pairs, predictions / "poor", tmp_path / "a", against=str(tmp_path / "nothing"))
    with pytest.raises(SettingsError, match="class 'matrix' with index 0"):
        judge(pairs, predictions / "poor", tmp_path / "a", classes=["one", "two", "three"], against=str(good))
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/confusion_per_image.csv").write_text("micrograph,true_index\na,x\n")
    with pytest.raises(SettingsError, match="cannot be read"):
        judge(pairs, predictions / "poor", tmp_path / "a", against=str(tmp_path / "damaged"))
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in sorted((pairs / "masks").iterdir()):
        changed = read_mask(path).copy()
        changed[0, 20] = (changed[0, 20] + (path.name < "3_c")) % 3
        Image.fromarray(changed).save(masks / path.name)
    result = judge(pairs, predictions / "poor", tmp_path / "a", masks=str(masks), against=str(good))
    assert result.comparison.micrographs == 1
    assert "one unit" in result.comparison.figures["reason"]
    refused = rows_of(tmp_path / "a/failures.csv")
    assert {row["stage"] for row in refused} == {"compare"}
    assert len(refused) == 11
    assert "other pixels per class" in refused[0]["reason"]
    (masks / "3_c.png").unlink()
    result = judge(pairs, predictions / "poor", tmp_path / "a", masks=str(masks), against=str(good))
    assert result.comparison is None
    assert any("no micrograph of it" in failure.reason for failure in result.failures)
    assert not (tmp_path / "a/comparison.csv").exists()
    with pytest.raises(ValueError, match="resamples above 0"):
        EvaluateSettings(masks="m", predictions="p", against="x", resamples=0)


def test_withheld_pixels_count_as_wrong_where_that_is_asked_for(pairs, predictions, tmp_path):
    plain = judge(pairs, predictions / "good", tmp_path / "a")
    strict = judge(pairs, predictions / "good", tmp_path / "b", withheld="wrong")
    labelled = plain.pooled.counts.sum() + plain.pooled.withheld.sum()
    assert plain.pooled.withheld.sum() == 12 * 64
    assert strict.pooled.pixel_accuracy == pytest.approx(np.trace(plain.pooled.counts) / labelled)
    document = json.loads((tmp_path / "b/metrics.json").read_text())
    assert document["withheld"] == "wrong"
    assert document["intervals"]["pixel_accuracy"]["value"] == pytest.approx(strict.pooled.pixel_accuracy)
    assert (
        document["per_image"]["pixel_accuracy"]
        < json.loads((tmp_path / "a/metrics.json").read_text())["per_image"]["pixel_accuracy"]
    )


def test_without_resamples_there_is_no_interval_and_no_older_table(pairs, predictions, tmp_path):
    judge(pairs, predictions / "good", tmp_path, group=r"^(\d+)_")
    assert (tmp_path / "metric_intervals.csv").exists()
    result = judge(pairs, predictions / "good", tmp_path, resamples=0)
    assert result.intervals is None
    assert not (tmp_path / "metric_intervals.csv").exists()
    assert not (tmp_path / "groups.csv").exists()
