"""A name is a path, a key and a text at once: every job, twice in a row, over names that file systems allow."""

import csv
import os
import re
import unicodedata

import numpy as np
import pytest
from PIL import Image

from tests.faults.test_foreign_files import CLASSES

NAMES = (
    b"caf\xe9",
    "cafe\u0301 NFD",
    "\u00c5ngstr\u00f6m NFC",
    "a, b;c",
    "quo\"te's",
    "two\nlines",
    "tab\tand\rreturn",
    "-dash",
    "--output",
    "..dots",
    "star*[0-9]?",
    "\U0001f52c emoji",
    " blanks ",
    "[bold]red",
    "<b>&amp;",
    "%s {0} $(x) `y`",
    "back\\slash",
    "#hash?query",
    "\u202eright to left",
    "\x1b[31mred",
    "a.tif.png.zarr.b",
    "n" * 220,
)
LONG = "n" * 251  # 255 bytes with its suffix: nothing can be added to it


def raw(name):
    return os.fsdecode(name)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pairs of all names, in a folder with such a name."""
    folder = tmp_path_factory.mktemp("hostile") / raw(b"d\xe9pot, \xce\xb1")
    mask = np.kron(np.arange(16).reshape(4, 4) % 3, np.ones((8, 8), int)).astype(np.uint8)
    pixels = np.array([110, 190, 30], np.uint8)[mask]
    for part, array in (("images", pixels), ("masks", mask)):
        (folder / part / raw(b"sub \xff")).mkdir(parents=True)
        for number, name in enumerate((*NAMES, LONG)):
            inner = raw(b"sub \xff") if number % 2 else ""
            own = raw(name)
            if part == "masks" and "NFC" in own:
                own = unicodedata.normalize("NFD", own)
            Image.fromarray(array).save(folder / part / inner / f"{own}.png")
    return folder


@pytest.fixture(scope="module")
def made(data, checkpoint):
    """A run, its maps and a tile store of these names."""
    from microseg_ray.cli import main

    for words in (
        segmenting(data, checkpoint, data / "run"),
        ("probabilities", "--run", data / "run", "--output", data / "maps", "--class_name", "pore"),
        tiling(data, data / "tiles"),
    ):
        assert main([str(word) for word in words]) in {0, 3}
    return data


def segmenting(data, checkpoint, output):
    given = "--archive", data / "images", "--checkpoint", checkpoint, "--output", output
    return "segment", *given, "--workers", 0, "--extra", "probabilities"


def tiling(data, output):
    given = "--images", data / "images", "--masks", data / "masks", "--output", output, *CLASSES, "--audit", "off"
    return "tile", *given, "--tile", 32, "--overlap", 0, "--workers", 0


def command(job, data, checkpoint, output):
    images, masks, run = data / "images", data / "masks", data / "run"
    pairs = "--images", images, "--masks", masks
    match job:
        case "segment":
            return segmenting(data, checkpoint, output)
        case "plan":
            return "plan", *segmenting(data, checkpoint, output)[1:]
        case "measure":
            return job, "--run", run, "--sections", 16, "--overlays", 64
        case "report":
            return job, "--run", run
        case "verify":
            return job, "--run", run, "--shards", 4
        case "postprocess":
            return job, "--run", run, "--output", output, "--min_speck", 4, "--workers", 0
        case "threshold":
            return job, "--run", run, "--class_name", "pore", "--threshold", 0.5, "--output", output
        case "threshold of maps":
            return "threshold", "--probabilities", data / "maps" / "maps", "--threshold", 0.5, "--output", output
        case "probabilities":
            return job, "--run", run, "--output", output
        case "tile":
            return tiling(data, output)
        case "train":
            model = "--model.name", "unet", "--model.width", 4, "--model.depth", 2
            return job, "--tiles", data / "tiles", "--output", output, "--epochs", 1, "--workers", 0, *model
        case "evaluate":
            return job, *pairs, "--checkpoint", checkpoint, "--output", output
        case "evaluate a run":
            return "evaluate", "--masks", masks, "--predictions", run, "--output", output, "--sections", 16
        case "annotate":
            return job, "--images", images, "--annotations", masks, "--format", "index", *CLASSES, "--output", output
        case "catalog":
            return job, *pairs, "--output", output / "c.csv"
        case "audit":
            return job, "--images", images, "--output", output / "l.csv"
        case "divide":
            regions = '[{"name": "left", "box": [0, 0, 1, 0.5], "split": "train"}]'
            return job, *pairs, "--regions", regions, "--output", output
        case "info":
            return job, *sorted(str(path) for path in images.rglob("*.png"))
        case "export":
            return job, "--checkpoint", checkpoint, "--format", "torch", "--output", output / raw(b"m\xff,.pt2")
        case "simulate":
            return job, "--count", 2, "--size", 32, "--output", output
    raise ValueError(job)


JOBS = (
    "segment", "plan", "measure", "report", "verify", "postprocess", "threshold", "threshold of maps", "probabilities", "tile",
    "train", "evaluate", "evaluate a run", "annotate", "catalog", "audit", "divide", "info", "export", "simulate",
)  # fmt: skip
COSTLY = ("measure", "evaluate a run")
SECOND = {"catalog": "--overwrite", "divide": "--overwrite", "annotate": "--overwrite", "export": "--overwrite"}


@pytest.mark.parametrize("job", [pytest.param(job, marks=pytest.mark.slow) if job in COSTLY else job for job in JOBS])
def test_every_job_twice(job, made, checkpoint, microseg, tmp_path):
    output = tmp_path / raw(b"out \xe9, \xce\xb2\n[x]*")
    for turn in range(2):
        words = command(job, made, checkpoint, output)
        ran = microseg(*words, *((SECOND[job], "true") if turn and job in SECOND else ()))
        assert ran.code in ({0, 1, 3} if job == "audit" else {0, 3}), ran
        assert "Traceback" not in ran.out + ran.err
        # Only the name that fills its 255 bytes already is ever set aside, and it is said why.
        assert not re.search(r"Error\b", ran.out + ran.err), ran
        assert "unaccounted" not in ran.out
        assert ran.out.encode("utf-8")
    for table in output.rglob("*.csv") if output.exists() else ():
        if "maps" not in table.relative_to(output).parts:
            with table.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
                assert len({len(row) for row in csv.reader(file)}) <= 1, table
