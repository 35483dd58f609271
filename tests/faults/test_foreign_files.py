"""What is not ours is never deleted or replaced: every job that writes, with and without --overwrite, twice."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from microseg_ray.errors import RunMismatchError
from microseg_ray.fitting.search.binding import ENTRIES
from microseg_ray.jobs.demo import MARKER
from microseg_ray.outputs import MANIFEST, Kind, claim, drop, foreign_in

CLASSES = "--classes", '["matrix","grain","pore"]'
REFUSAL = re.compile(
    r"(not known as an output of the job|belongs to the job|left alone|is not empty|exists|cannot be read).*; "
    r"give another (output|folder|name|file)"
)


@pytest.fixture(scope="module")
def study(tmp_path_factory, pairs_of):
    folder = tmp_path_factory.mktemp("study")
    pairs_of(folder / "data")
    return folder


@pytest.fixture(scope="module")
def pairs_of():
    def write(folder):
        for part in ("images", "masks"):
            (folder / part).mkdir(parents=True)
        for number in range(4):
            mask = np.kron(
                np.random.default_rng(number).choice(3, (4, 4)).astype(np.uint8), np.ones((12, 12), np.uint8)
            )
            Image.fromarray(np.array([110, 190, 30], np.uint8)[mask]).save(folder / "images" / f"{number}_a.png")
            Image.fromarray(mask).save(folder / "masks" / f"{number}_a.png")

    return write


@pytest.fixture
def made(study, checkpoint, microseg):
    """What other jobs read: a tile store, runs with and without probabilities."""
    data = study / "data"
    if not (study / "run").exists():
        for name, extra in (("run", "none"), ("maps", "probabilities")):
            segmented = ("segment", "--archive", data / "images", "--checkpoint", checkpoint, "--output", study / name)
            assert microseg(*segmented, "--workers", 0, "--extra", extra).code == 0
        assert microseg("tile", *tiling(data), "--output", study / "tiles").code == 0
        for number, name in enumerate(("0_a", "1_a", "2_a", "3_a")):
            folder = study / "labelled" / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{name}.png").write_bytes((data / "images" / f"{name}.png").read_bytes())
        assert microseg(*arguments("classifier", study, checkpoint, study / "classifier")).code == 0
    return study


def tiling(data):
    named = "--images", data / "images", "--masks", data / "masks", *CLASSES
    return *named, "--tile", 32, "--overlap", 0, "--workers", 0, "--splits", '{"val": 0.5}', "--audit", "off"


def arguments(job, study, checkpoint, output):
    """A command line of a job that writes to `output`."""
    data = study / "data"
    images, masks = data / "images", data / "masks"
    match job:
        case "segment":
            return "segment", "--archive", images, "--checkpoint", checkpoint, "--output", output, "--workers", 0
        case "postprocess":
            return "postprocess", "--run", study / "run", "--output", output, "--min_speck", 4, "--workers", 0
        case "threshold of a run":
            return "threshold", "--run", study / "maps", "--class_name", "pore", "--threshold", 0.5, "--output", output
        case "threshold of maps":
            return "threshold", "--probabilities", study / "csv", "--threshold", 0.5, "--output", output
        case "probabilities":
            return "probabilities", "--run", study / "maps", "--output", output
        case "tile":
            return "tile", *tiling(data), "--output", output
        case "train":
            model = "--model.name", "unet", "--model.width", 4, "--model.depth", 2
            return "train", "--tiles", study / "tiles", "--output", output, "--epochs", 1, "--workers", 0, *model
        case "evaluate":
            return "evaluate", "--masks", masks, "--predictions", masks, "--output", output, *CLASSES
        case "annotate":
            rules = '[{"name": "matrix", "below": 100}, {"name": "grain", "at_least": 100}]'
            given = (
                "--images",
                images,
                "--format",
                "thresholds",
                "--thresholds",
                rules,
                "--classes",
                '["matrix","grain"]',
            )
            return "annotate", *given, "--output", output
        case "simulate":
            return "simulate", "--count", 2, "--size", 32, "--output", output
        case "catalog":
            return "catalog", "--images", images, "--masks", masks, "--output", output / "catalog.csv"
        case "divide":
            regions = '[{"name": "left", "box": [0, 0, 1, 0.5], "split": "train"}]'
            return "divide", "--images", images, "--masks", masks, "--regions", regions, "--output", output
        case "export":
            return "export", "--checkpoint", checkpoint, "--format", "torch", "--output", output / "model.pt2"
        case "classifier":
            given = "--images", study / "labelled", "--output", output, "--epochs", 1, "--batch", 4, "--audit", "off"
            return "classifier", *given, "--model.height", 48, "--model.width", 48
        case "classify":
            return "classify", "--archive", images, "--checkpoint", study / "classifier/best", "--output", output
        case "measure":
            return "measure", "--run", output, "--sections", 16, "--overlays", 2
        case "report":
            return "report", "--run", output
    raise ValueError(job)


COSTLY = ("export",)
JOBS = (
    "segment", "postprocess", "threshold of a run", "threshold of maps", "probabilities", "tile", "train", "evaluate",
    "annotate", "simulate", "catalog", "divide", "export", "classifier", "classify",
)  # fmt: skip
KEEPS = {"evaluate", "simulate"}  # these have no --overwrite

# Names that one job or another would use, and names inside its folders.
FILES = (
    "notes.txt", "areas.csv", "areas.parquet", "failures.csv", "report.html", "sections.csv", "metrics.json", "metrics.csv",
    "tiles.parquet", "truth.csv", "settings.json", "state.pt", "state.before.pt", "curves.png",
    "report.json", "catalog.csv", "leaks.csv",
    "catalog_failures.csv", "model.pt2", "model.pt2.json", "threshold.json", "probabilities.json", "classes.csv",
    "images/mine.tif", "images/grains_0000.tif", "masks/hand.png", "masks/0_a.png", "masks/0_a.png.zarr/notes.txt", "0_a.png",
    "best/notes.txt", "last/notes.txt", "epochs/0001/notes.txt", "events/notes.txt", "panels/mine.png", "overlays/mine.png",
    "maps/mine.csv", "tiles.zarr/notes.txt", "trials/notes.txt",
)  # fmt: skip


def plant(output, names=FILES):
    """Files of somebody else, as far as nothing is at their place; and what they are."""
    for name in names:
        path = output / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"by hand")
    elsewhere = output.parent / "elsewhere"
    elsewhere.mkdir(exist_ok=True)
    (elsewhere / "kept.png").write_bytes(b"by hand")
    for name in ("linked", "masks/linked", "best/linked"):
        if (output / name).parent.is_dir():
            (output / name).symlink_to(elsewhere)


def theirs(output):
    """What `plant` left, by path: contents and links."""
    found = {}
    for root in (output, output.parent / "elsewhere"):
        for parent, folders, names in os.walk(root):
            for name in (*names, *folders):
                path = Path(parent, name)
                if path.is_symlink():
                    found[str(path)] = str(path.readlink())
                elif path.is_file() and path.read_bytes() == b"by hand":
                    found[str(path)] = "by hand"
    return found


@pytest.fixture
def prepared(made, microseg):
    if not (made / "csv").exists():
        assert (
            microseg("probabilities", "--run", made / "maps", "--output", made / "csv_of", "--format", "csv").code == 0
        )
        (made / "csv_of" / "maps").rename(made / "csv")
    return made


@pytest.mark.parametrize("job", JOBS)
def test_a_folder_of_somebody_else_stays_as_it_is(job, prepared, checkpoint, microseg, tmp_path):
    output = tmp_path / "output"
    plant(output)
    before = theirs(output)
    for more in ((), () if job in KEEPS else ("--overwrite", "true")) * 2:
        ran = microseg(*arguments(job, prepared, checkpoint, output), *more)
        assert theirs(output) == before
        assert ran.code in {1, 2}, ran
        assert REFUSAL.search(ran.err), ran.err


@pytest.mark.parametrize("job", [pytest.param(job, marks=pytest.mark.slow) if job in COSTLY else job for job in JOBS])
def test_files_added_to_an_output_stay(job, prepared, checkpoint, microseg, tmp_path):
    output = tmp_path / "output"
    first = microseg(*arguments(job, prepared, checkpoint, output))
    assert first.code in {0, 3}, first
    plant(output)
    before = theirs(output)
    assert before
    for _ in range(2):
        microseg(*arguments(job, prepared, checkpoint, output), *(() if job in KEEPS else ("--overwrite", "true")))
        assert theirs(output) == before


@pytest.mark.parametrize("job", [pytest.param(job, marks=pytest.mark.slow) if job in COSTLY else job for job in JOBS])
def test_overwrite_still_replaces_what_is_ours(job, prepared, checkpoint, microseg, tmp_path):
    output = tmp_path / "output"
    more = () if job in KEEPS else ("--overwrite", "true")
    for again in ((), more, more):
        ran = microseg(*arguments(job, prepared, checkpoint, output), *again)
        assert ran.code in {0, 3}, ran
    assert not foreign_in(output)


def searching(study, output):
    space = '{"optimizer.learning_rate": [0.001, 0.01]}'
    given = "--tiles", study / "tiles", "--output", output, "--search", space, "--trials", 2, "--epochs", 1
    return "tune", *given, "--model.name", "unet", "--model.width", 4, "--model.depth", 2, "--algorithm", "grid"


@pytest.mark.parametrize("more", [(), ("--overwrite", "true")])
def test_a_search_keeps_what_is_not_its_own(more, made, microseg, tmp_path):
    """Refused before Ray is started, in a folder of somebody else and in one of an older search."""
    output = tmp_path / "output"
    plant(output)
    before = theirs(output)
    assert microseg(*searching(made, output), *more).code == 1
    assert theirs(output) == before
    older = tmp_path / "older"
    claim(older, "tune", ENTRIES)
    for name in ("trials/a/metrics.csv", "trials/a/notes.txt", "ray/panel.png", "best/mine.tif"):
        (older / name).parent.mkdir(parents=True, exist_ok=True)
        (older / name).write_bytes(b"by hand")
    (older / "sweep.json").write_text(json.dumps({"identity": "another", "settings": {}}))
    before = theirs(older)
    assert len(before) == 5
    assert microseg(*searching(made, older), *more).code == 1
    assert theirs(older) == before


@pytest.mark.parametrize("more", [(), ("--overwrite", "true")])
def test_the_demo_keeps_what_is_not_its_own(more, microseg, tmp_path):
    output = tmp_path / "output"
    plant(output)
    before = theirs(output)
    assert microseg("demo", "--output", output, *more).code == 2
    assert theirs(output) == before
    claim(output, "demo", {MARKER: Kind.FILE}, proven=True)
    (output / MARKER).touch()
    ran = microseg("demo", "--output", output, *more)
    assert ran.code == 2
    assert "empty folder" in ran.err
    assert theirs(output) == before


@pytest.mark.parametrize("job", ["measure", "report"])
def test_jobs_inside_a_run_keep_what_is_not_the_runs(job, prepared, checkpoint, microseg, tmp_path):
    run = tmp_path / "output"
    assert microseg(*arguments("segment", prepared, checkpoint, run)).code == 0
    plant(run, ("report.html", "sections.csv", "overlays/0_a.png.png", "overlays/mine.png", "masks/hand.png"))
    before = theirs(run)
    for _ in range(2):
        assert microseg(*arguments(job, prepared, checkpoint, run)).code == 1
        assert theirs(run) == before


def digests(folder):
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("overwrite", [(), ("--overwrite", "true")])
def test_the_study_layout_of_the_readme_loses_no_mask(overwrite, study, pairs_of, checkpoint, microseg, tmp_path):
    pairs_of(tmp_path / "study")
    before = digests(tmp_path / "study")
    named = "--archive", tmp_path / "study" / "images", "--checkpoint", checkpoint, "--output", tmp_path / "study"
    for _ in range(2):
        ran = microseg("segment", *named, "--workers", 0, *overwrite)
        assert ran.code == 1
        assert "another output" in ran.err
        assert "--overwrite" not in ran.err
        assert {name: digest for name, digest in digests(tmp_path / "study").items() if "/." not in name} == before


def test_a_run_without_a_manifest_is_known_by_its_content(made, checkpoint, microseg, tmp_path):
    run = tmp_path / "output"
    command = arguments("segment", made, checkpoint, run)
    assert microseg(*command).code == 0
    (run / MANIFEST).unlink()
    assert microseg(*command, "--overwrite", "true").code == 0
    (run / MANIFEST).unlink()
    (run / "masks" / "hand.png").write_bytes(b"by hand")
    assert microseg(*command, "--overwrite", "true").code == 1
    assert (run / "masks" / "hand.png").read_bytes() == b"by hand"


@pytest.mark.parametrize("text", ["", "[]", '{"format": 1, "entries": {"../x": {"kind": "file", "job": "a"}}}'])
def test_a_damaged_manifest_proves_nothing(text, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "x").write_text("kept")
    (tmp_path / "out" / MANIFEST).write_text(text)
    with pytest.raises(RunMismatchError, match="cannot be read"):
        drop(tmp_path / "out", "a")
    assert (tmp_path / "x").read_text() == "kept"


def test_drop_is_all_or_none(tmp_path):
    claim(tmp_path, "a", {"one": Kind.FILE, "two": Kind.CHECKPOINT})
    (tmp_path / "one").touch()
    (tmp_path / "two").mkdir()
    (tmp_path / "two" / "notes.txt").touch()
    with pytest.raises(RunMismatchError, match=r"notes\.txt"):
        drop(tmp_path, "a")
    assert (tmp_path / "one").exists()
    (tmp_path / "two" / "notes.txt").unlink()
    drop(tmp_path, "a")
    assert [path.name for path in tmp_path.iterdir()] == [MANIFEST]


def test_one_job_does_not_replace_the_files_of_another(tmp_path):
    claim(tmp_path, "a", {"areas.csv": Kind.FILE})
    (tmp_path / "areas.csv").touch()
    with pytest.raises(RunMismatchError, match="belongs to the job a"):
        claim(tmp_path, "b", {"areas.csv": Kind.FILE})


def test_nothing_is_written_through_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "panels").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(RunMismatchError, match="no folder of ours"):
        claim(tmp_path / "out", "a", {"panels/x.png": Kind.FILE})
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_the_manifest_lists_what_a_job_creates(made):
    entries = json.loads((made / "run" / MANIFEST).read_text())["entries"]
    assert entries["masks"] == {"job": "run", "kind": "stores"}


# --- what another job is writing ------------------------------------------------------------------------------------
HOLDER = """
import contextlib, sys, time
from microseg_ray.files import sole_writer

with contextlib.ExitStack() as held:
    for folder in sys.argv[1:]:
        held.enter_context(sole_writer(folder))
    print("held", flush=True)
    time.sleep(600)
"""
# These write a few files, each whole or not at all, into a folder that is no output of theirs alone.
UNLOCKED = {"catalog", "export"}
LOCKED = (*(job for job in JOBS if job not in UNLOCKED), "measure")


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """A folder for each job, in which another process is writing."""
    folder = tmp_path_factory.mktemp("held")
    command = [sys.executable, "-c", HOLDER, *(str(folder / job) for job in LOCKED)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        yield folder
        holder.kill()


@pytest.mark.parametrize("job", LOCKED)
def test_a_folder_that_another_job_writes_into_stays_as_it_is(job, held, prepared, checkpoint, microseg, tree_of):
    output = held / job
    if job == "measure":
        shutil.copytree(prepared / "run", output, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".lock"))
    before = tree_of(output)
    ran = microseg(*arguments(job, prepared, checkpoint, output))
    assert ran.code in {1, 2}, ran
    assert "another job is writing here; wait for it, or give another output" in ran.err
    assert tree_of(output) == before
