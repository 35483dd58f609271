"""A disk that fills up or cannot be written: the job stops and says so, and the same command finishes once there is room."""

import os
import shutil
import subprocess

import numpy as np
import pytest
import tifffile
from PIL import Image

from microseg_ray.outputs import MANIFEST
from tests.faults.test_foreign_files import CLASSES, digests

SIDE = 384
FREE = 24 * 1024


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own with a filler that leaves little room; tests are skipped where none may be mounted."""
    place = tmp_path / "disk"
    place.mkdir()
    command = shutil.which("mount")
    if command is None or os.name != "posix":
        pytest.skip("no mount here")
    made = subprocess.run(
        [command, "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("no file system may be mounted here")
    filler = place / "filler"
    filler.write_bytes(bytes(shutil.disk_usage(place).free - FREE))

    def change(options):
        subprocess.run([command, "-o", f"remount,{options}", str(place)], capture_output=True, check=True)

    yield place, filler, change
    subprocess.run([shutil.which("umount") or "umount", "-l", str(place)], capture_output=True, check=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory, checkpoint):
    """A run with probabilities, and maps; noise, which does not compress."""
    from microseg_ray.cli import main

    folder = tmp_path_factory.mktemp("made")
    random = np.random.default_rng(0)
    (folder / "images").mkdir()
    (folder / "maps").mkdir()
    for number in range(3):
        tifffile.imwrite(folder / "images" / f"{number}.tif", random.integers(0, 255, (SIDE, SIDE), np.uint8))
        (folder / "masks").mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 3, (SIDE, SIDE), np.uint8)).save(folder / "masks" / f"{number}.png")
        np.save(folder / "maps" / f"{number}.npy", random.random((SIDE, SIDE)))
    given = "--archive", folder / "images", "--checkpoint", checkpoint, "--output", folder / "run", "--workers", 0
    assert main([str(word) for word in ("segment", *given, "--extra", "probabilities")]) == 0
    return folder


def command(job, made, checkpoint, output):
    match job:
        case "segment":
            given = "--archive", made / "images", "--checkpoint", checkpoint
            return job, *given, "--output", output, "--workers", 0
        case "threshold of maps":
            return "threshold", "--probabilities", made / "maps", "--threshold", 0.5, "--output", output
        case "threshold":
            return job, "--run", made / "run", "--class_name", "pore", "--threshold", 0.3, "--output", output
        case "postprocess":
            return job, "--run", made / "run", "--output", output, "--min_speck", 2, "--workers", 0
        case "probabilities":
            return job, "--run", made / "run", "--output", output, "--format", "npy", "--class_name", "pore"
        case "divide":
            regions = '[{"name": "left", "box": [0, 0, 1, 0.5], "split": "train"}]'
            return job, "--images", made / "images", "--regions", regions, "--output", output
        case "tile":
            given = "--images", made / "images", "--masks", made / "masks", *CLASSES, "--tile", 64, "--overlap", 0
            return job, *given, "--output", output, "--workers", 0
        case "evaluate":
            return job, "--masks", made / "masks", "--predictions", made / "run", "--output", output
    raise ValueError(job)


COSTLY = ("evaluate",)
JOBS = ("segment", "threshold of maps", "threshold", "postprocess", "probabilities", "divide", "tile", "evaluate")


@pytest.mark.parametrize("job", [pytest.param(job, marks=pytest.mark.slow) if job in COSTLY else job for job in JOBS])
def test_a_full_disk_stops_the_job_and_room_finishes_it(job, made, checkpoint, small_disk, microseg, tmp_path):
    place, filler, _ = small_disk
    words = command(job, made, checkpoint, place / "out")
    full = microseg(*words)
    assert full.code == 1, full
    assert "No space left on device" in full.err or "are free; free some space" in full.err
    assert "Traceback" not in full.out + full.err
    filler.unlink()
    again = microseg(*words)
    assert again.code == 0, again
    reference = microseg(*command(job, made, checkpoint, tmp_path / "reference"))
    assert reference.code == 0

    def result(folder):
        own = digests(folder)
        skipped = ("run.json", MANIFEST, ".lock", ".epoch", ".jsonl", "catalog.csv", "tfevents.0")
        return {name[len(str(folder)) :]: mark for name, mark in own.items() if not name.endswith(skipped)}

    assert result(place / "out") == result(tmp_path / "reference")


@pytest.mark.parametrize("job", [pytest.param(job, marks=pytest.mark.slow) if job in COSTLY else job for job in JOBS])
def test_a_folder_that_cannot_be_written_stops_the_job(job, made, checkpoint, small_disk, microseg):
    place, filler, change = small_disk
    filler.unlink()
    change("ro")
    ran = microseg(*command(job, made, checkpoint, place / "out"))
    assert ran.code == 1, ran
    assert "Read-only file system" in ran.err
    change("rw")
    assert microseg(*command(job, made, checkpoint, place / "out")).code == 0
