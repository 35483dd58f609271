"""Which runtime a setting means, and what of it is recorded."""

import pytest

from microseg_ray.errors import SettingsError
from microseg_ray.models.runtimes import choose, load_runtime, runtime_name, runtime_record


def test_auto_takes_openvino_on_a_cpu_where_it_is_installed(monkeypatch):
    monkeypatch.setattr(choose, "find_spec", lambda _: object())
    assert runtime_name("auto", "cpu") == "openvino"
    assert runtime_name("auto", "cuda") == "torch"
    monkeypatch.setattr(choose, "find_spec", lambda _: None)
    assert runtime_name("auto", "cpu") == "torch"


def test_openvino_that_is_missing_is_said(monkeypatch):
    monkeypatch.setattr(choose, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"segment.runtime: openvino is not installed here; pip install"):
        runtime_name("openvino", "cpu", "segment.runtime")


def test_the_record_names_what_decides_bytes():
    pytest.importorskip("openvino")
    assert set(runtime_record("torch", "fp32")) == {"runtime", "torch"}
    assert set(runtime_record("openvino", "bf16")) == {"runtime", "torch", "openvino", "runtime_precision"}


def test_an_unknown_runtime_is_refused():
    with pytest.raises(ValueError, match="runtime 'onnx' is unknown"):
        load_runtime("onnx")
