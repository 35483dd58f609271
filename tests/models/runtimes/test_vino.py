"""OpenVINO beside torch: the same numbers, types, buffers and errors through one interface."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from microseg_ray.errors import RuntimeUnfitError
from microseg_ray.models.runtimes import load_runtime

pytest.importorskip("openvino")


class Strip(nn.Module):
    """As a strip network is: several inputs, kept rows in and out."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(1, 4, 3, padding=(0, 1))

    def forward(self, rows, kept):
        whole = torch.cat([kept.float(), rows], dim=2)
        return self.convolution(whole), whole[:, :, -2:].to(torch.bfloat16)


@pytest.fixture(scope="module")
def strip():
    torch.manual_seed(0)
    return Strip().eval().requires_grad_(False)


def inputs(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(1, 1, 8, 16, generator=generator), torch.rand(1, 1, 2, 16, generator=generator).bfloat16()


def test_a_strip_is_computed_as_torch_does(strip):
    given = inputs()
    expected = load_runtime("torch", "fp32").compile(strip, given)(*given)
    found = load_runtime("openvino", "fp32").compile(strip, given)(*given)
    assert [tensor.dtype for tensor in found] == [torch.float32, torch.bfloat16]
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=1e-5)
    # Without bf16 units OpenVINO cuts numbers off where torch rounds them.
    torch.testing.assert_close(found[1], expected[1], rtol=2**-7, atol=0)


def test_what_one_call_returns_can_be_given_to_the_next(strip):
    given = inputs()
    run = load_runtime("openvino", "fp32").compile(strip, given)
    first, kept = run(*given)
    copy = first.clone(), kept.clone()
    run(inputs(1)[0], kept)
    assert torch.equal(first, copy[0])
    assert torch.equal(kept, copy[1])


def test_inputs_share_memory_and_stay(strip):
    given = inputs()
    before = [tensor.clone() for tensor in given]
    run = load_runtime("openvino", "bf16").compile(strip, given)
    once = [tensor.clone() for tensor in run(*given)]
    again = run(given[0].transpose(2, 3).contiguous().transpose(2, 3), given[1])
    assert all(torch.equal(one, other) for one, other in zip(once, again, strict=True))
    assert all(torch.equal(one, other) for one, other in zip(before, given, strict=True))


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "int32"])
def test_integers_go_in_as_they_are(dtype):
    class Half(nn.Module):
        def forward(self, pixels):
            return pixels.float() / 2

    limits = np.iinfo(dtype)
    pixels = torch.from_numpy(np.array([[limits.min, 1, limits.max]], dtype))
    run = load_runtime("openvino", "fp32").compile(Half(), [pixels])
    np.testing.assert_array_equal(run(pixels)[0].numpy(), pixels.numpy().astype(np.float32) / 2)


@pytest.mark.parametrize("name", ["torch", "openvino"])
def test_other_inputs_than_compiled_for_are_refused(strip, name):
    rows, kept = inputs()
    run = load_runtime(name, "fp32").compile(strip, [rows, kept])
    with pytest.raises(ValueError, match=r"input 0 is \(1, 1, 4, 16\) torch.float32; .* compiled for \(1, 1, 8, 16\)"):
        run(rows[:, :, :4], kept)
    with pytest.raises(ValueError, match=r"input 1 is .* torch.float32; .* torch.bfloat16"):
        run(rows, kept.float())
    with pytest.raises(ValueError, match="1 inputs; the network was compiled for 2"):
        run(rows)


def test_what_openvino_lacks_is_said():
    class Strange(nn.Module):
        def forward(self, pixels):
            return torch.linalg.svd(pixels)[1]

    with pytest.raises(RuntimeUnfitError, match=r"OpenVINO .* cannot compute this network \(.+\)"):
        load_runtime("openvino", "fp32").compile(Strange(), [torch.zeros(4, 4)])


def test_its_precision_is_what_the_processor_has(monkeypatch):
    from microseg_ray.models.runtimes import package

    class Old:
        def get_property(self, _device, _name):
            return ["FP32"]

    assert load_runtime("openvino", "fp32").precision == "fp32"
    monkeypatch.setattr(package, "core", Old)
    assert load_runtime("openvino", "bf16").precision == "fp32"


def test_impossible_settings_are_refused():
    for name in ("torch", "openvino"):
        with pytest.raises(ValueError, match="precision 'fp8' is unknown"):
            load_runtime(name, "fp8")
        with pytest.raises(ValueError, match="threads 0 is not possible"):
            load_runtime(name, threads=0)


def test_nothing_is_reported_to_the_makers():
    code = (
        "import sys\n"
        "from microseg_ray.models.runtimes import load_runtime\n"
        "load_runtime('openvino')\n"
        "import openvino.tools.ovc as ovc\n"
        "assert type(ovc.telemetry).__module__ == 'openvino.tools.ovc.telemetry_stub', type(ovc.telemetry)\n"
        "assert 'openvino_telemetry' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
