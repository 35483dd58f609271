"""A run of several checkpoints: the same bytes with Ray and without, bound to all of them, judged and verified like any other."""

from __future__ import annotations

import csv
import json
import shutil

import numpy as np
import pytest
from PIL import Image

from microseg_ray.errors import CheckpointError, RunMismatchError
from microseg_ray.evaluation.job import evaluate
from microseg_ray.models.ensemble import describe
from microseg_ray.models.predictor import load_predictor
from microseg_ray.on_ray.actors import segment
from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.verify import verify
from microseg_ray.settings import EvaluateSettings, SegmentSettings, VerifySettings, load_settings, settings_from
from microseg_ray.sources import read_mask


@pytest.fixture(scope="module")
def places(new_checkpoint, tmp_path_factory):
    root = tmp_path_factory.mktemp("members")
    # A comma and quotes may be part of a folder's name.
    names = ((root / 'a, "old"' / "best", 1, 2), (root / "b" / "best", 2, 1))
    return tuple(str(new_checkpoint(folder, seed=seed, depth=depth)) for folder, seed, depth in names)


def options(archive, places, output, **more):
    given = [f"--{key}={value}" for key, value in {"shard": 128, "workers": 0, "threads": 1, **more}.items()]
    named = [part for place in places for part in ("--checkpoint", place)]
    return load_settings(SegmentSettings, ["--archive", str(archive), "--output", str(output), *named, *given])


@pytest.fixture(scope="module")
def finished(archive, places, tmp_path_factory):
    return segment(options(archive, places, tmp_path_factory.mktemp("ensemble") / "run"))


def masks(run):
    return {name: np.asarray(MaskStore.open(run.store_path(name)).mask[:]) for name in run.names()}


def test_the_mask_is_that_of_the_averaged_probabilities(archive, places, finished):
    image = np.asarray(Image.open(archive / "2019/run #2 (a)/small.png"))
    height, width = image.shape
    padded = np.pad(image, ((0, -height % 4), (0, -width % 4)), mode="reflect")[None, None]
    scores = np.mean([load_predictor(place, threads=1).scores(padded, (0, 255))[0] for place in places], axis=0)
    expected = scores.argmax(axis=0)[:height, :width]
    ordered = np.sort(scores[:, :height, :width], axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-3
    found = masks(finished.run)["2019/run #2 (a)/small.png"]
    assert clear.mean() > 0.9
    assert (found == expected)[clear].all()


def test_run_json_names_every_member(places, finished):
    document = json.loads((finished.run.folder / "run.json").read_text())
    assert document["checkpoint"] == list(places)
    assert [each["checkpoint"] for each in document["members"]] == list(places)
    assert [each["model_digest"] for each in document["members"]] == [describe(place).digest for place in places]
    assert finished.run.identity.model_digest == describe(places).digest
    assert finished.plan.verdict == "exact"


@pytest.mark.slow
def test_ray_gives_the_same_bytes(archive, places, finished, tmp_path, ray_session, tree_of):
    other = segment(options(archive, places, tmp_path / "run", workers=2))
    assert tree_of(other.run.folder / "masks") == tree_of(finished.run.folder / "masks")


def test_strips_give_the_same_masks(archive, places, finished, tmp_path):
    other = segment(options(archive, places, tmp_path / "run", path="strips"))
    assert other.plan.engine.strip
    for name, mask in masks(finished.run).items():
        assert (masks(other.run)[name] != mask).mean() < 1e-4
    strips = spreads_of(other.run)
    for name, counts in spreads_of(finished.run).items():
        assert np.abs(strips[name] - counts).max() <= 2 + 1e-4 * counts.sum()


def spreads_of(run):
    return {name: MaskStore.open(run.store_path(name)).spreads["ensemble"].sum(axis=(0, 1)) for name in run.names()}


def test_counts_by_each_checkpoint_are_those_of_runs_with_it_alone(archive, places, finished, tmp_path, microseg):
    found = spreads_of(finished.run)
    alone = [masks(segment(options(archive, (place,), tmp_path / str(n))).run) for n, place in enumerate(places)]
    for name, counts in found.items():
        own = np.array([[(mask[name] == index).sum() for index in range(counts.shape[1])] for mask in alone])
        assert counts.sum(axis=1).tolist() == own.sum(axis=1).tolist()
        # Alone, the one with the smaller stride pads the bottom and right by fewer pixels.
        assert np.abs(counts - own).max() <= 3e-3 * own[0].sum()
    assert any((counts[0] != counts[1]).any() for counts in found.values())
    shutil.copytree(finished.run.folder, tmp_path / "run")
    ran = microseg("measure", "--run", tmp_path / "run", "--objects.measure", "false", "--exports.write", "false")
    assert ran.code in {0, 3}, ran.err
    rows = list(csv.DictReader((tmp_path / "run/intervals.csv").read_text("utf-8").splitlines()))
    total = sum(found.values())
    shares = total / total.sum(axis=1, keepdims=True)
    row = {(r["class_index"], r["part"]): r for r in rows if r["scope"] == "archive"}
    for index in range(shares.shape[1]):
        error = shares[:, index].std(ddof=1) / np.sqrt(2)
        assert float(row[str(index), "ensemble"]["standard_error"]) == pytest.approx(error)
        combined, between = (row[str(index), part] for part in ("combined", "micrographs"))
        assert float(combined["standard_error"]) == pytest.approx(np.hypot(float(between["standard_error"]), error))


@pytest.mark.slow
def test_symmetries_are_counted(archive, places, finished, tmp_path):
    run = segment(options(archive, places, tmp_path / "tta", tta="true")).run
    for name in run.names():
        store = MaskStore.open(run.store_path(name))
        assert {kind: rows.shape[2] for kind, rows in store.spreads.items()} == {"ensemble": 2, "tta": 8}
        for rows in store.spreads.values():
            assert (rows.sum(axis=-1) == store.counts.sum(axis=-1)[..., None]).all()
        # A checkpoint is counted in the pixels as they are, so the averaging over symmetries does not change its counts.
        assert np.abs(store.spreads["ensemble"].sum(axis=(0, 1)) - spreads_of(finished.run)[name]).max() <= 2


def test_a_store_without_these_counts_is_gone_on_with(archive, places, finished, tmp_path):
    """Of a version that did not count: the masks stand, and the interval says what is missing."""
    shutil.copytree(finished.run.folder, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    for name in run.names():
        path = run.store_path(name)
        shutil.rmtree(path / "ensemble")
        document = json.loads((path / "zarr.json").read_text())
        del document["attributes"]["microseg"]["spreads"]
        document.pop("consolidated_metadata", None)
        (path / "zarr.json").write_text(json.dumps(document))
    before = masks(run)
    again = segment(options(archive, places, tmp_path / "run")).run
    # A store that was made anew would have them.
    assert all(MaskStore.open(again.store_path(name)).spreads == {} for name in again.names())
    assert all((mask == before[name]).all() for name, mask in masks(again).items())


def test_a_run_is_not_continued_with_one_member_less(archive, places, finished):
    with pytest.raises(RunMismatchError, match="model:"):
        segment(options(archive, places[:1], finished.run.folder))


def test_verify_computes_it_again(finished, places):
    found = verify(settings_from(VerifySettings, {"run": str(finished.run.folder), "shards": 4}))
    assert (found.recomputed, found.equal, found.problems) == (4, 4, ())
    with pytest.raises(CheckpointError, match="cannot be recomputed with this checkpoint"):
        verify(settings_from(VerifySettings, {"run": str(finished.run.folder), "checkpoint": places[0]}))
    assert Run.open(finished.run.folder).document["members"]


def test_evaluate_judges_the_averaged_probabilities(pairs, places, tmp_path):
    given = {"images": str(pairs / "images"), "masks": str(pairs / "masks"), "output": str(tmp_path / "out")}
    judged = evaluate(
        EvaluateSettings(
            **given, checkpoint=places, figures=False, threads=1, resamples=0, precision="fp32", runtime="torch"
        )
    )
    predictors = [load_predictor(place, precision="fp32", threads=1) for place in places]
    right = total = 0
    for path in sorted((pairs / "images").glob("*.png")):
        truth, image = read_mask(pairs / "masks" / path.name), np.asarray(Image.open(path))[None, None]
        scores = np.mean([predictor.scores(image, (0, 255))[0] for predictor in predictors], axis=0)
        right += int((scores.argmax(axis=0) == truth)[truth != 255].sum())
        total += int((truth != 255).sum())
    assert judged.document()["pooled"]["pixel_accuracy"] == pytest.approx(right / total, abs=1e-4)


def test_write_back_needs_one_card(pairs, places):
    with pytest.raises(ValueError, match="several checkpoints have no card in common"):
        EvaluateSettings(images=str(pairs), masks=str(pairs), checkpoint=places, write_back=True)
