"""An input never leaves a result without a trace: every job says what became of all that it met."""

import csv
import json
import re
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.faults.test_foreign_files import CLASSES

LINE = re.compile(r"(\w+): (\d+) seen = (\d+) used \+ (\d+) set aside \+ (\d+) not taken(?: \((.*)\))?")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"


@pytest.fixture(scope="module")
def messy(tmp_path_factory, checkpoint):
    """Two good pairs, and beside them what real folders hold."""
    folder = tmp_path_factory.mktemp("messy")
    images, masks = folder / "images", folder / "masks"
    images.mkdir()
    masks.mkdir()
    mask = np.kron(np.arange(16).reshape(4, 4) % 3, np.ones((12, 12), int)).astype(np.uint8)
    pixels = np.array([110, 190, 30], np.uint8)[mask]
    Image.fromarray(pixels).save(images / "one.png")
    tifffile.imwrite(images / "two.tif", np.stack([pixels, pixels[::-1], pixels]), photometric="minisblack")
    for name in ("one", "two", "pointer", "of_nothing"):
        Image.fromarray(mask).save(masks / f"{name}.png")
    mask[:2] = 255
    Image.fromarray(mask).save(masks / "one.png")
    (images / "pointer.tif").write_text(POINTER)
    (images / "notes.txt").write_text("x")
    (images / ".hidden.tif").write_text("x")
    (images / "loop").symlink_to(images)
    return folder


@pytest.fixture(scope="module")
def run_of(messy, checkpoint, tmp_path_factory):
    """A run with probabilities in the archive itself, and a tile store."""
    from microseg_ray.cli import main

    run, tiles = messy / "images" / "run", tmp_path_factory.mktemp("tiles") / "store"
    assert main(list(map(str, segmenting(messy, checkpoint, run)))) == 3
    assert main(list(map(str, tiling(messy, tiles)))) == 3
    return run, tiles


def segmenting(messy, checkpoint, output):
    given = "--archive", messy / "images", "--checkpoint", checkpoint, "--output", output
    return "segment", *given, "--workers", 0, "--extra", "probabilities"


def tiling(messy, output):
    given = "--images", messy / "images", "--masks", messy / "masks", "--output", output, *CLASSES, "--audit", "off"
    return (
        "tile",
        *given,
        "--tile",
        32,
        "--overlap",
        0,
        "--workers",
        0,
        "--splits",
        '{"val": 0.5}',
        "--min_labelled",
        0.9,
    )


def command(job, messy, checkpoint, run_of, output):
    """A command line, and where its table is; None where the job writes none."""
    images, masks, (run, tiles) = messy / "images", messy / "masks", run_of
    pairs = "--images", images, "--masks", masks
    table = output / "accounting.csv"
    match job:
        case "segment":
            return segmenting(messy, checkpoint, output), table
        case "plan":
            return ("plan", *segmenting(messy, checkpoint, output)[1:]), None
        case "measure" | "report" | "verify":
            shutil.copytree(run, output)
            return (job, "--run", output), output / "accounting.csv" if job == "measure" else None
        case "postprocess":
            return (job, "--run", run, "--output", output, "--min_speck", 4, "--workers", 0), table
        case "threshold":
            return (job, "--run", run, "--class_name", "pore", "--threshold", 0.5, "--output", output), table
        case "probabilities":
            return (job, "--run", run, "--output", output), table
        case "tile":
            return tiling(messy, output), table
        case "train":
            model = "--model.name", "unet", "--model.width", 4, "--model.depth", 2
            given = "--tiles", tiles, "--output", output, "--epochs", 1, "--workers", 0, "--batch", 1
            return (job, *given, *model, "--allow_empty_classes", "true"), table
        case "evaluate":
            return (job, *pairs, "--checkpoint", checkpoint, "--output", output), table
        case "evaluate a run":
            return ("evaluate", "--masks", masks, "--predictions", run, "--output", output), table
        case "evaluate masks":
            return ("evaluate", "--masks", masks, "--predictions", masks, "--output", output, *CLASSES), table
        case "annotate":
            given = "--images", images, "--annotations", masks, "--format", "index", *CLASSES
            return (job, *given, "--output", output), table
        case "catalog":
            return (job, *pairs, "--output", output / "c.csv"), output / "c_accounting.csv"
        case "audit":
            return (job, "--images", images, "--output", output / "l.csv"), output / "l_accounting.csv"
        case "divide":
            regions = '[{"name": "left", "box": [0, 0, 1, 0.5], "split": "train"}]'
            return (job, *pairs, "--regions", regions, "--output", output), table
        case "info":
            return (job, images / "one.png", images / "pointer.tif"), None
    raise ValueError(job)


JOBS = (
    "segment", "plan", "measure", "report", "verify", "postprocess", "threshold", "probabilities", "tile", "train", "evaluate",
    "evaluate a run", "evaluate masks", "annotate", "catalog", "audit", "divide", "info",
)  # fmt: skip
OF_AN_ARCHIVE = {"segment", "plan", "tile", "evaluate", "annotate", "catalog", "audit", "divide"}


def lines_of(out):
    """(seen, used, set aside, not taken, reasons) by quantity, from the last lines of a job."""
    lines = re.split(r"(?=\b\w+: \d+ seen = )", out)[1:]
    matches = [LINE.fullmatch(line.strip()) for line in lines]
    # Nothing comes after them.
    assert all(matches), lines
    return {match[1]: (*map(int, match.group(2, 3, 4, 5)), match[6] or "") for match in matches}


@pytest.mark.parametrize("job", JOBS)
def test_seen_is_used_or_set_aside_or_not_taken(job, messy, run_of, checkpoint, microseg, tmp_path):
    words, table = command(job, messy, checkpoint, run_of, tmp_path / "output")
    ran = microseg(*words)
    assert ran.code in {0, 3}, ran
    found = lines_of(ran.out)
    assert found, ran.out
    for quantity, (seen, used, aside, left, _) in found.items():
        assert seen == used + aside + left, quantity
        assert used > 0
    if table is not None:
        with table.open(encoding="utf-8", newline="") as file:
            rows = {row["quantity"]: row for row in csv.DictReader(file)}
        written = {
            name: (*(int(row[key]) for key in ("seen", "used", "set_aside", "not_taken")), row["reasons"])
            for name, row in rows.items()
        }
        assert written == found
    if job in OF_AN_ARCHIVE:
        _, used, aside, _, reasons = found["files"]
        assert used == 2
        for reason in (
            "hidden",
            "link to a folder that is listed already",
            "of no image format",
            "output of microseg_ray",
        ):
            assert reason in reasons
        assert aside == 1
        assert "git lfs pull" in ran.out


def test_pages_pixels_and_masks_are_counted(messy, run_of, checkpoint, microseg, tmp_path):
    tiled = lines_of(microseg(*tiling(messy, tmp_path / "tiles")).out)
    assert tiled["pages"][:4] == (4, 2, 0, 2)
    assert tiled["pixels"][:4] == (2 * 48 * 48, 2 * 48 * 48 - 96, 0, 96)
    assert tiled["masks"][:4] == (4, 2, 1, 1)
    segmented = lines_of(microseg(*segmenting(messy, checkpoint, tmp_path / "run")).out)
    assert segmented["pages"] == (4, 2, 0, 2, "2 of other pages (source.page)")
    # Again, from what is on the disk alone.
    assert lines_of(microseg(*segmenting(messy, checkpoint, tmp_path / "run")).out) == segmented
    judged = microseg("evaluate", "--masks", messy / "masks", "--predictions", run_of[0], "--output", tmp_path / "e")
    assert lines_of(judged.out)["pixels"][4].startswith("96 of no class in the true mask (255)")
    document = json.loads((tmp_path / "e" / "metrics.json").read_text())
    assert [each["quantity"] for each in document["accounting"]] == ["masks", "predictions", "pixels"]


def test_regions_are_counted(messy, microseg, tmp_path):
    shapes = [("grain", 1), ("grain", 20), ("dust", 30)]
    regions = [
        {
            "region_attributes": {"class": value},
            "shape_attributes": {"name": "rect", "x": 1, "y": y, "width": 4, "height": 4},
        }
        for value, y in shapes
    ]
    document = {
        name: {"filename": name, "size": -1, "regions": regions, "file_attributes": {}}
        for name in ("one.png", "elsewhere.png")
    }
    (tmp_path / "via.json").write_text(json.dumps(document))
    given = "--images", messy / "images", "--annotations", tmp_path / "via.json", *CLASSES
    ran = microseg("annotate", *given, "--output", tmp_path / "masks")
    found = lines_of(ran.out)
    assert found["regions"] == (6, 2, 0, 4, "1 of unknown class; 3 of no image here")
    assert found["files"][1] == 1
    written = json.loads((tmp_path / "masks" / "report.json").read_text())["accounting"]
    assert [each["quantity"] for each in written] == ["files", "annotations", "regions"]


def test_tiles_of_the_test_split_are_not_taken(messy, microseg, tmp_path):
    given = tiling(messy, tmp_path / "tiles")[:-2]
    assert microseg(*given[:-1], '{"test": 0.5}').code == 3
    model = (
        "--model.name",
        "unet",
        "--model.width",
        4,
        "--model.depth",
        2,
        "--batch",
        1,
        "--allow_empty_classes",
        "true",
    )
    ran = microseg(
        "train", "--tiles", tmp_path / "tiles", "--output", tmp_path / "m", "--epochs", 1, "--workers", 0, *model
    )
    assert lines_of(ran.out)["tiles"][4] == "4 of split test"
