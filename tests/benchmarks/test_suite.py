"""The benchmarks run, on small inputs; what they print is a table with the command."""

import json

import pytest
from torch import nn

from benchmarks.__main__ import compare, main
from benchmarks.harness import machine
from benchmarks.roofline import needs
from microseg_ray.models.strips.trace import traced


def test_a_table_is_printed_and_written(tmp_path, capsys):
    words = ["--side", "512", "--tile", "128", "--halo", "8", "--rounds", "1", "--times", "1"]
    ways = ["copy (memcpy)", "microseg_ray, stitch() of masks"]
    assert main(["stitch", *words, "--only", *ways, "--output", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith("`python -m benchmarks stitch --side 512")
    document = json.loads((tmp_path / "stitch.json").read_text())
    assert [row[0] for row in document["tables"][0]["rows"]] == ways
    assert document["machine"]["torch"]
    assert (tmp_path / "stitch.md").read_text().endswith(printed.rstrip("\n") + "\n")


def test_an_unknown_name_is_refused(capsys):
    assert main(["speed"]) == 2
    assert "forward,segment,steps,stitch" in capsys.readouterr().err


def test_a_fallen_ratio_and_another_machine_are_printed(capsys):
    committed = {"machine": machine() | {"torch": "0.1"}, "ratios": {"forward: a / b": 2.0, "stitch: c / d": 0.5}}
    assert compare({"forward: a / b": 1.9, "stitch: c / d": 0.2}, committed) == 1
    printed = capsys.readouterr().out
    assert "torch is" in printed
    assert "FELL stitch: c / d: 0.2 now, 0.5 committed" in printed
    assert "1 of 2 ratios" in printed
    assert compare({"forward: a / b": 1.9, "stitch: c / d": 0.5}, committed) == 0
    assert compare({"forward: a / b": 1.9}, committed) == 1


def test_without_committed_ratios_the_command_that_writes_them_is_named(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("benchmarks.__main__.CHECKED", tmp_path / "check.json")
    assert main(["check"]) == 2
    assert "python -m benchmarks check --keep" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["forward", "--rounds", "1", "--tile", "128", "--megapixels", "0.02", "--models", "unet"],
        ["segment", "--side", "256", "--rounds", "1", "--roi", "128"],
        ["archive", "--count", "2", "--side", "128", "--rounds", "1"],
        ["roofline", "--rounds", "1", "--tile", "128", "--megapixels", "0.02", "--models", "unet"],
    ],
)
def test_every_way_runs(words, capsys):
    assert main(words) == 0
    assert "could not run" not in capsys.readouterr().out


def test_operations_and_bytes_of_a_network_are_those_counted_by_hand():
    network = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 1)).eval()
    flops, moved = needs(traced(network, 1, 1))
    assert flops == 2 * (9 * 8 + 8 * 2)
    # The image once, then what each convolution reads and writes; the ReLU is fused.
    assert moved == 4 * (1 + (1 + 8) + (8 + 2))
