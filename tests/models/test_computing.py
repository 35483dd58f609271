"""Which runtime a job takes: OpenVINO where it can compute the model, else torch, with the reason in the plan and in run.json."""

import logging

import pytest
import torch
from torch import nn

from microseg_ray.errors import SettingsError
from microseg_ray.models import checkpoint as checkpoints
from microseg_ray.models import computing, predictor
from microseg_ray.models.card import read_card
from microseg_ray.models.computing import decide_runtime
from microseg_ray.models.runtimes import package
from microseg_ray.runs.setup import prepare_job
from microseg_ray.settings import SegmentSettings

pytest.importorskip("openvino")
pytestmark = pytest.mark.openvino


class Foreign(nn.Module):
    """Has an operation that OpenVINO lacks."""

    def forward(self, images):
        return images.repeat(1, 3, 1, 1) * torch.linalg.svdvals(images).sum()


@pytest.fixture
def foreign(checkpoint, monkeypatch):
    """A checkpoint whose architecture is from another package, and is tried."""
    monkeypatch.setattr(computing, "CONVERTED", ())
    monkeypatch.setattr(checkpoints, "load_checkpoint", lambda folder: (Foreign(), read_card(folder)))
    monkeypatch.setattr(predictor, "_CONVERTED", type(predictor._CONVERTED)())
    return checkpoint


def test_a_model_that_openvino_cannot_compute_is_computed_by_torch_and_that_is_said(foreign, archive, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        job = prepare_job(SegmentSettings(archive=str(archive), checkpoint=str(foreign), output=str(tmp_path / "run")))
    assert job.config.runtime == "torch"
    assert job.identity.pixels["computed_with"]["runtime"] == "torch"
    assert "computed by torch: unet: OpenVINO" in job.record["runtime_note"]
    assert "No conversion rule found for operations: aten._linalg_svd.default" in job.record["runtime_note"]
    assert job.plan.computing.note == job.record["runtime_note"]
    assert job.record["runtime_note"] in caplog.text


def test_openvino_that_was_asked_for_and_cannot_is_an_error(foreign):
    with pytest.raises(SettingsError, match=r"segment.runtime: unet: OpenVINO .*; set runtime: torch"):
        decide_runtime(foreign, read_card(foreign), "openvino", "bf16", key="segment.runtime")


def test_a_model_of_another_package_that_converts_is_computed_by_openvino(checkpoint, monkeypatch):
    monkeypatch.setattr(computing, "CONVERTED", ())
    found = decide_runtime(checkpoint, read_card(checkpoint), "auto", "fp32")
    assert (found.runtime, found.note) == ("openvino", "")


def test_openvino_that_does_not_load_is_said(checkpoint, monkeypatch):
    def broken():
        raise ImportError("libtbb.so is missing")

    monkeypatch.setattr(package, "core", broken)
    found = decide_runtime(checkpoint, read_card(checkpoint), "auto", "bf16")
    assert found.runtime == "torch"
    assert found.note == "computed by torch: OpenVINO is installed and does not load (libtbb.so is missing)"


def test_a_processor_without_bf16_units_is_said_and_bound(checkpoint, monkeypatch):
    class Old:
        def get_property(self, _device, _name):
            return ["FP32"]

    monkeypatch.setattr(package, "core", Old)
    found = decide_runtime(checkpoint, read_card(checkpoint), "auto", "bf16")
    assert found.record["runtime_precision"] == "fp32"
    assert found.note == "computed in fp32: this processor has no bf16 units"
    assert decide_runtime(checkpoint, read_card(checkpoint), "auto", "fp32").note == ""
