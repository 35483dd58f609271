"""The benchmarks run, on small inputs; what they print is a table with the command."""

import json

import pytest

from benchmarks.__main__ import main


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


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["forward", "--rounds", "1", "--tile", "128", "--megapixels", "0.02", "--models", "unet"],
        ["segment", "--side", "256", "--rounds", "1", "--roi", "128"],
        ["archive", "--count", "2", "--side", "128", "--rounds", "1"],
    ],
)
def test_every_way_runs(words, capsys):
    assert main(words) == 0
    assert "could not run" not in capsys.readouterr().out
