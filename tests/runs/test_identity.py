"""What a run is bound to: the whole model, the settings that are used, the versions that compute. Nothing else."""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version

import pytest

from microseg_ray.errors import CheckpointError, RunMismatchError
from microseg_ray.models.card import (
    NO_PIXELS,
    Footprint,
    ModelCard,
    ReceptiveField,
    model_digest,
    read_card,
    read_card_and_digest,
)
from microseg_ray.models.runtimes import choose, runtime_record
from microseg_ray.runs import folder as folders
from microseg_ray.runs.folder import Run
from microseg_ray.runs.identity import computed_with
from microseg_ray.runs.setup import prepare_job
from microseg_ray.settings import ClassSpec, Scaling, SegmentSettings
from microseg_ray.sources.agreement import Intensities

CARD = ModelCard(
    architecture="unet",
    options={"width": 4, "depth": 2},
    in_channels=1,
    classes=(ClassSpec(name="matrix", color="#000000"), ClassSpec(name="pore", color="#ffffff")),
    receptive_field=ReceptiveField(radius=20, stride=4),
)
CHANGED = {
    "format_version": [2],
    "architecture": ["resunet"],
    "options": [{"width": 8, "depth": 2}, {"width": 4, "depth": 2, "norm": "group"}],
    "in_channels": [3],
    "classes": [CARD.classes[::-1], (*CARD.classes, ClassSpec(name="crack"))],
    "scaling": [
        Scaling(clahe=0.02),
        Scaling(flat_field="divide"),
        Scaling(kind="fixed", low=0, high=100),
        Scaling(kind="percentile", low=1, high=99),
    ],
    "pixel_size_um": [(0.5, 0.5)],
    "receptive_field": [ReceptiveField(radius=24, stride=4), ReceptiveField(radius=20, stride=8)],
    "intensities": [Intensities(dtype="uint8", bits=8, percentiles=(0.1, 0.5, 0.9))],
    "footprint": [Footprint(parameter_bytes=7)],
    "training": [{"epochs": 3}],
    "metrics": [{"mean_iou": 0.5}],
    "versions": [{"torch": "1.0"}],
}


def settings(archive, checkpoint, output, **options):
    chosen = {"archive": str(archive), "checkpoint": str(checkpoint), "output": str(output), "shard": 256, "workers": 0}
    return SegmentSettings(**{**chosen, **options})


@pytest.fixture(autouse=True)
def begun(monkeypatch):
    """A run without a computed shard binds nothing; what is here computes none, and counts as if it had."""
    monkeypatch.setattr(Run, "begun", lambda _: True)


@pytest.mark.parametrize("field", sorted(ModelCard.model_fields))
def test_every_field_of_the_card_is_part_of_the_digest_or_listed_with_a_reason(field):
    first = model_digest(CARD, "f0")
    assert CHANGED[field], "a new field needs a case here"
    for value in CHANGED[field]:
        same = model_digest(CARD.model_copy(update={field: value}), "f0") == first
        assert same == (field in NO_PIXELS), (field, value)
    assert field not in NO_PIXELS or NO_PIXELS[field]


def test_weights_and_what_a_classifier_sees_count():
    assert model_digest(CARD, "f0") != model_digest(CARD, "f1")
    views = CARD.model_copy(update={"training": {"views": {"count": 5}}})
    assert model_digest(CARD, "f0") != model_digest(views, "f0")


@pytest.mark.parametrize(
    "change",
    [{"scaling": {"kind": "dtype", "clahe": 0.02}}, {"pixel_size_um": [1.0, 1.0]}],
    ids=["clahe", "pixel size"],
)
def test_a_run_is_not_continued_after_its_card_was_edited(archive, checkpoint, tmp_path, change):
    model = tmp_path / "best"
    shutil.copytree(checkpoint, model)
    job = prepare_job(settings(archive, model, tmp_path / "run"))
    Run.create(tmp_path / "run", job.identity, job.record)
    document = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps({**document, **change}))
    assert read_card(model) != read_card(checkpoint)
    edited = prepare_job(settings(archive, model, tmp_path / "run"))
    with pytest.raises(RunMismatchError, match=r"model: .* there"):
        Run.at(tmp_path / "run", edited.identity)


def test_a_checkpoint_that_changes_under_a_run_stops_it(archive, checkpoint, new_checkpoint, tmp_path):
    job = prepare_job(settings(archive, checkpoint, tmp_path / "run"))
    card, digest = read_card_and_digest(checkpoint)
    record = runtime_record(job.config.runtime, job.config.precision)
    job.config.require_own(digest, computed_with(card, record))
    other = read_card_and_digest(new_checkpoint(tmp_path / "other", seed=9))[1]
    with pytest.raises(CheckpointError, match="model: "):
        job.config.require_own(other, computed_with(card, record))
    with pytest.raises(CheckpointError, match=r"torch: .* 0\.1 now"):
        job.config.require_own(digest, {**computed_with(card, record), "torch": "0.1"})


# Settings of the first run, settings of the second, and whether the second goes on with the first.
KNOBS = {
    "overlap with crop": ({}, {"overlap": 0.25}, True),
    "overlap with hann": ({"blend": "hann"}, {"blend": "hann", "overlap": 0.25}, False),
    "halo with crop": ({"halo": 40}, {"halo": 44}, False),
    "halo with hann": ({"blend": "hann"}, {"blend": "hann", "halo": 88}, True),
    "halo with gaussian": ({"blend": "gaussian", "halo": 0}, {"blend": "gaussian", "halo": 64}, True),
    "halo rounded to the same": ({"halo": 41}, {"halo": 44}, True),
    "tile": ({"tile": 256}, {"tile": 320}, False),
    "shard": ({}, {"shard": 512}, False),
    "batch": ({"batch": 1}, {"batch": 2}, False),
    "blend": ({}, {"blend": "mean"}, False),
    "tta": ({}, {"tta": True}, False),
    "threads": ({"threads": 1}, {"threads": 2}, False),
    "threads by default": ({}, {"threads": 1}, True),
    "precision": ({}, {"precision": "fp32"}, False),
    "runtime": ({"runtime": "openvino"}, {"runtime": "torch"}, False),
    "runtime by default": ({}, {"runtime": "openvino"}, True),
    "extra": ({}, {"extra": "margin"}, False),
    "page": ({}, {"source": {"page": 1}}, False),
    "memory with tile given": ({"tile": 256, "batch": 1}, {"tile": 256, "batch": 1, "memory": 3.0}, True),
    "tolerance of a model without a pixel size": ({}, {"scale_tolerance": 0.5}, True),
    "mismatch of a model without a pixel size": ({}, {"on_scale_mismatch": "rescale"}, True),
    "workers": ({}, {"workers": 2}, True),
    "attempts": ({}, {"attempts": 7}, True),
}
SCALED = {
    "tolerance with stop": ({}, {"scale_tolerance": 0.5}, False),
    "tolerance with ignore": (
        {"on_scale_mismatch": "ignore"},
        {"on_scale_mismatch": "ignore", "scale_tolerance": 0.5},
        True,
    ),
    "mismatch": ({}, {"on_scale_mismatch": "rescale"}, False),
}


@pytest.mark.openvino
@pytest.mark.parametrize(("first", "second", "same"), KNOBS.values(), ids=KNOBS)
def test_a_setting_counts_where_it_is_used(archive, checkpoint, tmp_path, first, second, same):
    job = prepare_job(settings(archive, checkpoint, tmp_path / "run", **first))
    Run.create(tmp_path / "run", job.identity, job.record)
    again = prepare_job(settings(archive, checkpoint, tmp_path / "run", **second))
    if same:
        assert Run.at(tmp_path / "run", again.identity).identity == job.identity
    else:
        with pytest.raises(RunMismatchError, match="made otherwise"):
            Run.at(tmp_path / "run", again.identity)


@pytest.mark.parametrize(("first", "second", "same"), SCALED.values(), ids=SCALED)
def test_the_scale_rule_counts_where_the_model_has_a_pixel_size(archive, checkpoint, tmp_path, first, second, same):
    model = tmp_path / "best"
    shutil.copytree(checkpoint, model)
    document = json.loads((model / "model.json").read_text())
    (model / "model.json").write_text(json.dumps({**document, "pixel_size_um": [0.5, 0.5]}))
    made, again = (prepare_job(settings(archive, model, tmp_path / "run", **options)) for options in (first, second))
    assert (made.identity == again.identity) == same


@pytest.mark.parametrize(("halo", "written"), [(0, 0), (1, 4), (41, 44), (44, 44)])
def test_the_halo_is_rounded_once_and_written_as_it_is_used(archive, checkpoint, tmp_path, halo, written):
    job = prepare_job(settings(archive, checkpoint, tmp_path / "run", halo=halo))
    assert job.plan.engine.halo == written
    assert job.identity.pixels["halo"] == written


def test_another_version_of_torch_is_refused_and_named(archive, checkpoint, tmp_path, monkeypatch):
    job = prepare_job(settings(archive, checkpoint, tmp_path / "run"))
    Run.create(tmp_path / "run", job.identity, job.record)
    before = (tmp_path / "run" / "run.json").read_text()
    monkeypatch.setattr(choose, "version", lambda name: "99.1" if name == "torch" else version(name))
    again = prepare_job(settings(archive, checkpoint, tmp_path / "run"))
    with pytest.raises(RunMismatchError, match=r"computed_with\.torch: .* there, 99\.1 now.*install the versions"):
        Run.create(tmp_path / "run", again.identity, again.record)
    assert (tmp_path / "run" / "run.json").read_text() == before


@pytest.mark.openvino
def test_a_run_of_another_runtime_is_refused_with_the_setting_that_goes_on_with_it(archive, checkpoint, tmp_path):
    job = prepare_job(settings(archive, checkpoint, tmp_path / "run", runtime="torch"))
    Run.create(tmp_path / "run", job.identity, job.record)
    again = prepare_job(settings(archive, checkpoint, tmp_path / "run"))
    with pytest.raises(
        RunMismatchError, match=r"computed_with\.runtime: torch there, openvino now.*set runtime: torch to go on"
    ):
        Run.create(tmp_path / "run", again.identity, again.record)


def test_versions_that_compute_no_pixel_are_added_and_never_overwritten(archive, checkpoint, tmp_path, monkeypatch):
    job = prepare_job(settings(archive, checkpoint, tmp_path / "run"))
    first = Run.create(tmp_path / "run", job.identity, job.record).document["versions"]
    monkeypatch.setattr(folders, "versions", lambda *_: {**first, "zarr": "99.1"})
    for _ in range(2):
        document = Run.create(tmp_path / "run", job.identity, job.record).document
        assert document["versions"] == first
        assert [each["zarr"] for each in document["continued_with"]] == ["99.1"]
    fresh = Run.create(tmp_path / "run", job.identity, job.record, overwrite=True).document
    assert fresh["versions"]["zarr"] == "99.1"
    assert "continued_with" not in fresh


def test_a_run_of_an_older_format_is_refused(archive, checkpoint, tmp_path):
    job = prepare_job(settings(archive, checkpoint, tmp_path / "run"))
    Run.create(tmp_path / "run", job.identity, job.record)
    path = tmp_path / "run" / "run.json"
    document = json.loads(path.read_text())
    del document["identity"]["pixels"]["computed_with"]
    path.write_text(json.dumps(document))
    with pytest.raises(RunMismatchError, match="computed_with: not recorded there"):
        Run.at(tmp_path / "run", job.identity)
