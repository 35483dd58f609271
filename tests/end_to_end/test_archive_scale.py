"""One command over a mixed archive: thousands of small micrographs, a huge one, and files that cannot be used."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import time

import numpy as np
import pytest
import tifffile
from PIL import Image

SMALL, LARGE_SIDE = 3000, 16384


def build_archive(folder, small, side):
    """Small PNGs in sub-folders, one large TIFF, five broken files; the names of the broken ones."""
    generator = np.random.default_rng(0)
    for index in range(small):
        place = folder / f"session {index // 500}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (96, 128), dtype=np.uint8)).save(place / f"field#{index}.png")
    target = tifffile.memmap(folder / "mosaic.tif", shape=(side, side), dtype=np.uint8)
    row = generator.integers(0, 256, (512, side), dtype=np.uint8)
    for y0 in range(0, side, 512):
        target[y0 : y0 + 512] = row
    target.flush()
    del target
    broken = {
        "empty.tif": b"",
        "text.tif": b"not an image",
        "cut.png": (folder / "session 0" / "field#0.png").read_bytes()[:60],
    }
    for name, content in broken.items():
        (folder / name).write_bytes(content)
    tifffile.imwrite(folder / "whole.tif", generator.integers(0, 256, (300, 300), dtype=np.uint8))
    (folder / "truncated.tif").write_bytes((folder / "whole.tif").read_bytes()[:2000])
    (folder / "whole.tif").unlink()
    tifffile.imwrite(folder / "nan.tif", np.full((50, 50), np.nan, np.float32))
    return {*broken, "truncated.tif", "nan.tif"}


def run_segment(archive, checkpoint, output):
    command = [
        sys.executable,
        "-m",
        "microseg_ray.cli",
        "segment",
        "--archive",
        str(archive),
        "--checkpoint",
        str(checkpoint),
    ]
    began = time.monotonic()
    done = subprocess.run(
        [*command, "--output", str(output), "--workers", "2"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "RAY_AUTH_MODE": "disabled"},
    )
    return done, time.monotonic() - began


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(3600)
def test_a_mixed_archive_is_done_in_one_command_and_the_second_run_computes_nothing(tmp_path, checkpoint):
    broken = build_archive(tmp_path / "archive", SMALL, LARGE_SIDE)
    first, seconds = run_segment(tmp_path / "archive", checkpoint, tmp_path / "run")
    print(first.stdout[-3000:], f"first run: {seconds:.0f} s")
    assert first.returncode == 3, first.stderr
    with (tmp_path / "run" / "failures.csv").open() as handle:
        assert {row["path"] for row in csv.DictReader(handle)} == broken
    with (tmp_path / "run" / "areas.csv").open() as handle:
        rows = list(csv.DictReader(handle))
    assert len({row["micrograph"] for row in rows}) == SMALL + 1
    measured = {row["micrograph"]: int(row["measured_pixel_count"]) for row in rows}
    assert measured["mosaic.tif"] == LARGE_SIDE**2
    assert all(count == 96 * 128 for name, count in measured.items() if name != "mosaic.tif")

    second, again = run_segment(tmp_path / "archive", checkpoint, tmp_path / "run")
    print(second.stdout[-1500:], f"second run: {again:.1f} s")
    assert second.returncode == 3
    assert "0 shards computed" in second.stdout
    with (tmp_path / "run" / "areas.csv").open() as handle:
        assert list(csv.DictReader(handle)) == rows
