"""The confusion matrix that corrects areas: of an evaluation of the same model on the test split, and of no other."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest

from microseg_ray.evaluation.job import evaluate
from microseg_ray.evaluation.judged import JUDGED_FILE, model_test
from microseg_ray.on_ray.actors import segment
from microseg_ray.runs.folder import Run
from microseg_ray.settings import EvaluateSettings, SegmentSettings

MEASURE = (
    "measure",
    "--objects.measure",
    "false",
    "--intervals.structure",
    "false",
    "--exports.write",
    "false",
    "--run",
)


@pytest.fixture(scope="module")
def original(pairs, new_checkpoint, tmp_path_factory):
    """A project as the configs have it: model/best, run, evaluation beside each other."""
    root = tmp_path_factory.mktemp("original")
    checkpoint = str(new_checkpoint(root / "model/best", seed=3))
    segment(
        SegmentSettings(archive=f"{pairs}/images", checkpoint=checkpoint, output=f"{root}/run", workers=0, threads=1)
    )
    judge(pairs, checkpoint, root / "evaluation")
    return root


def judge(pairs, checkpoint, output, **options):
    chosen = {"split": "test", "splits": {"test": 0.5}, **options}
    evaluate(
        EvaluateSettings(
            images=f"{pairs}/images",
            masks=f"{pairs}/masks",
            checkpoint=str(checkpoint),
            output=str(output),
            figures=False,
            probabilities=False,
            resamples=0,
            threads=1,
            **chosen,
        )
    )


@pytest.fixture
def project(original, tmp_path):
    """A copy; its run.json names the checkpoint of the original, beside which an evaluation lies too."""
    shutil.copytree(original, tmp_path / "project")
    root = tmp_path / "project"
    document = json.loads((root / "run/run.json").read_text())
    document["checkpoint"] = str(root / "model/best")
    (root / "run/run.json").write_text(json.dumps(document))
    return root


def measured(microseg, root, *options):
    """Exit code, one line of what was said, and the sources in intervals.csv by part."""
    ran = microseg(*MEASURE, root / "run", *options)
    sources = {}
    with (root / "run/intervals.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            sources.setdefault(row["part"], set()).add(row["evaluation"])
    return ran.code, " ".join((ran.out + ran.err).split()), sources


def test_the_evaluation_of_the_runs_model_is_taken_and_named(project, microseg):
    document = json.loads((project / "evaluation" / JUDGED_FILE).read_text())
    run = json.loads((project / "run/run.json").read_text())
    assert document["model_digest"] == run["identity"]["model_digest"]
    assert document["split"] == "test"
    code, said, sources = measured(microseg, project)
    assert code == 0, said
    assert "areas are corrected by the evaluation ../evaluation (6 test micrographs)" in said
    own = {"model_stratified": {"../evaluation"}, "combined": {"../evaluation"}}
    assert sources == {"sampling": {""}, "micrographs": {""}, **own} | (
        {"model_inverse": {"../evaluation"}} if "model_inverse" in sources else {}
    )
    _, said, sources = measured(microseg, project, "--intervals.evaluation", "none")
    assert set(sources) == {"sampling", "micrographs"}
    assert "correct" not in said


@pytest.mark.parametrize("place", ["model/evaluation", "evaluation"])
def test_it_is_found_beside_the_checkpoint(project, microseg, place):
    elsewhere = project / "elsewhere/deep"
    elsewhere.mkdir(parents=True)
    (project / "run").rename(elsewhere / "run")
    if place != "evaluation":
        (project / "evaluation").rename(project / place)
    _, said, sources = measured(microseg, elsewhere)
    assert sources["model_stratified"] == {str(project / place)}, said


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"model_digest": "0" * 64}, "it judged another model (000000000000; the run's is "),
        ({"model_digest": None}, "it judged masks from elsewhere"),
        ({"split": None}, "it judged all micrographs, not the split test"),
        ({"split": "val"}, "it judged the split val, not the split test"),
        ({"pixels": {"blend": "crop", "tta": True}}, "tta True there, False here"),
        ({"confusions_sha256": ""}, "was changed after it was written"),
        ({"checkpoint": 3}, "damaged"),
        ({"surprise": 3}, "damaged"),
    ],
)
def test_one_that_does_not_fit_is_not_taken_and_the_reason_is_said(project, change, reason):
    path = project / "evaluation" / JUDGED_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    test, notes = model_test(Run.open(project / "run"), "auto")
    assert test is None
    assert len(notes) == 1
    assert notes[0].startswith("the evaluation ../evaluation is not used: ")
    assert reason in notes[0]


def test_without_an_evaluation_that_is_said(project, microseg):
    shutil.rmtree(project / "evaluation")
    code, said, sources = measured(microseg, project)
    assert code == 0, said
    assert "no interval holds the model's error: no evaluation of this model was found" in said
    assert set(sources) == {"sampling", "micrographs"}


def test_too_few_test_micrographs_are_not_taken_unasked(project, pairs, microseg):
    judge(pairs, project / "model/best", project / "evaluation", group=r"^(\d+)_", splits={"test": ["1", "2"]})
    _, said, sources = measured(microseg, project)
    assert "it has 2 test micrographs or groups, and 3 are needed" in said
    assert "combined" not in sources
    _, said, sources = measured(microseg, project, "--intervals.evaluation", project / "evaluation")
    assert sources["combined"] == {"../evaluation"}, said


def test_a_derived_run_is_corrected_by_its_own_evaluation_only(project, pairs, microseg):
    derived = project / "derived"
    ran = microseg(
        "postprocess", "--run", project / "run", "--output", derived / "run", "--min_speck", 9, "--workers", 0
    )
    assert ran.code == 0, ran.err
    shutil.copytree(project / "evaluation", derived / "evaluation")
    _, said, sources = measured(microseg, derived)
    assert "it judged the same model used otherwise (postprocess not used there" in said
    assert "combined" not in sources
    refused = microseg(*MEASURE, derived / "run", "--intervals.evaluation", derived / "evaluation")
    assert refused.code == 2
    assert "its errors are not those of this run" in " ".join(refused.err.split())
    options = ("--splits", '{"test": 0.5}', "--split", "test", "--figures", "false", "--resamples", 0)
    judged = microseg(
        *("evaluate", "--masks", pairs / "masks", "--predictions", derived / "run"),
        *("--output", derived / "evaluation", *options),
    )
    assert judged.code == 0, judged.err
    _, said, sources = measured(microseg, derived)
    assert sources["combined"] == {"../evaluation"}, said


def test_a_folder_that_judged_another_model_is_refused(project, pairs, new_checkpoint, microseg):
    judge(pairs, new_checkpoint(project / "other/best", seed=4), project / "other/evaluation")
    before = (project / "run/areas.csv").read_bytes()
    ran = microseg(*MEASURE, project / "run", "--intervals.evaluation", project / "other/evaluation")
    assert ran.code == 2
    said = " ".join(ran.err.split())
    assert "it judged another model" in said
    assert "evaluate the run's model with the run's settings" in said
    assert (project / "run/areas.csv").read_bytes() == before


def test_a_folder_that_was_asked_for_says_what_is_not_known_of_it(project, pairs, microseg):
    judge(pairs, project / "model/best", project / "all", split=None)
    _, said, sources = measured(microseg, project, "--intervals.evaluation", project / "all")
    assert "judged all micrographs: a model errs less on what it was trained on" in said
    assert sources["combined"] == {"../all"}
    Path(project / "all" / JUDGED_FILE).unlink()
    _, said, sources = measured(microseg, project, "--intervals.evaluation", project / "all")
    assert "does not say which model it judged" in said
    assert sources["combined"] == {"../all"}
