"""A failed attempt that computed nothing does not bind its output: the right command works there afterwards."""

import numpy as np
import pytest
from PIL import Image

from tests.faults.test_foreign_files import CLASSES


@pytest.fixture(scope="module")
def data(tmp_path_factory, checkpoint):
    from microseg_ray.cli import main

    folder = tmp_path_factory.mktemp("data")
    mask = np.kron(np.arange(16).reshape(4, 4) % 3, np.ones((12, 12), int)).astype(np.uint8)
    for part, array in (
        ("images", np.array([110, 190, 30], np.uint8)[mask]),
        ("masks", mask),
        ("colour", np.stack([mask, mask + 1, mask], axis=-1)),
        ("other", mask[:30]),
        ("maps", mask * 127),
        ("labelled/a", mask),
        ("labelled/b", mask[::-1]),
        ("tiny/a", mask[:4, :4]),
        ("tiny/b", mask[4:8, :4]),
    ):
        (folder / part).mkdir(parents=True)
        for number in range(2):
            suffix = "tif" if part == "maps" else "png"
            Image.fromarray(np.roll(array, 5 * number, axis=0)).save(folder / part / f"{number}.{suffix}")
    given = "--archive", folder / "images", "--checkpoint", checkpoint, "--output", folder / "run", "--workers", 0
    assert main([str(word) for word in ("segment", *given, "--extra", "probabilities")]) == 0
    given = "--images", folder / "images", "--masks", folder / "masks", "--output", folder / "tiles", *CLASSES
    assert main([str(word) for word in ("tile", *given, "--tile", 32, "--overlap", 0, "--workers", 0)]) == 0
    return folder


def attempts(job, data, checkpoint, new_checkpoint, output):
    """Words that every attempt has, those of attempts that fail, and those of the one that works."""
    match job:
        case "segment":
            other = new_checkpoint(output.parent / "colour_model", seed=3)
            given = "--output", output, "--workers", 0
            wrong = (
                ("--archive", data / "images", "--checkpoint", data / "nowhere"),
                ("--archive", data / "nowhere", "--checkpoint", checkpoint),
                ("--archive", data / "colour", "--checkpoint", other),
            )
            return (job, *given), wrong, ("--archive", data / "images", "--checkpoint", checkpoint)
        case "threshold of maps":
            given = "--probabilities", data / "maps", "--output", output
            return ("threshold", *given), (("--threshold", 0.5),), ("--threshold", 0.5, "--scale", 255)
        case "threshold":
            given = "--run", data / "run", "--output", output, "--threshold", 0.5
            return (job, *given), (("--class_name", "nothing"),), ("--class_name", "pore")
        case "postprocess":
            given = "--output", output, "--min_speck", 4, "--workers", 0
            return (job, *given), (("--run", data / "nowhere"),), ("--run", data / "run")
        case "probabilities":
            given = "--run", data / "run", "--output", output
            return (job, *given), (("--class_name", "nothing"),), ()
        case "tile":
            given = (
                "--images",
                data / "images",
                "--output",
                output,
                *CLASSES,
                "--tile",
                32,
                "--overlap",
                0,
                "--workers",
                0,
            )
            return (
                (job, *given),
                (("--masks", data / "other"), ("--masks", data / "nowhere")),
                ("--masks", data / "masks"),
            )
        case "train":
            given = (
                "--output",
                output,
                "--epochs",
                1,
                "--workers",
                0,
                "--batch",
                1,
                "--model.name",
                "unet",
                "--model.width",
                4,
            )
            wrong = (
                ("--tiles", data / "nowhere", "--model.depth", 2),
                ("--tiles", data / "tiles", "--model.depth", 6),
                ("--tiles", data / "tiles", "--model.depth", 2, "--model.weights", data / "nowhere.safetensors"),
            )
            return (job, *given), wrong, ("--tiles", data / "tiles", "--model.depth", 2)
        case "classifier":
            given = "--output", output, "--epochs", 1, "--audit", "off", "--batch", 2
            wrong = (("--images", data / "images"), ("--images", data / "labelled", "--classes", '["a", "c"]'))
            return (job, *given), wrong, ("--images", data / "labelled")
        case "annotate":
            given = "--images", data / "images", "--output", output, *CLASSES, "--format", "index"
            return (job, *given), (("--annotations", data / "other"),), ("--annotations", data / "masks")
        case "divide":
            regions = '[{"name": "left", "box": [0, 0, 1, 0.5], "split": "train"}]'
            given = "--images", data / "images", "--output", output, "--regions", regions
            return (job, *given), (("--masks", data / "other"),), ("--masks", data / "masks")
        case "catalog":
            given = "--output", output / "catalog.csv"
            return (job, *given), (("--images", data / "nowhere"),), ("--images", data / "images")
        case "evaluate":
            given = "--masks", data / "masks", "--output", output, *CLASSES
            return (job, *given), (("--predictions", data / "other"),), ("--predictions", data / "masks")
        case "export":
            given = "--output", output / "m.pt2"
            return (
                (job, *given),
                (("--checkpoint", data / "nowhere"),),
                ("--checkpoint", checkpoint, "--format", "torch"),
            )
    raise ValueError(job)


JOBS = (
    "segment", "threshold of maps", "threshold", "postprocess", "probabilities", "tile", "train", "classifier", "annotate",
    "divide", "catalog", "evaluate", "export",
)  # fmt: skip


@pytest.mark.parametrize("job", JOBS)
def test_the_right_command_works_after_wrong_ones(job, data, checkpoint, new_checkpoint, microseg, tmp_path):
    given, wrong, right = attempts(job, data, checkpoint, new_checkpoint, tmp_path / "output")
    for words in wrong:
        failed = microseg(*given, *words)
        assert failed.code in {1, 2, 3}, failed
        assert "Traceback" not in failed.err
    ran = microseg(*given, *right)
    assert ran.code == 0, ran


def test_what_was_computed_does_bind(data, checkpoint, new_checkpoint, microseg, tmp_path):
    given = "segment", "--archive", data / "images", "--output", tmp_path / "run", "--workers", 0
    assert microseg(*given, "--checkpoint", checkpoint).code == 0
    other = new_checkpoint(tmp_path / "other", seed=3)
    assert microseg(*given, "--checkpoint", other).code == 1
    maps = "threshold", "--probabilities", data / "maps", "--output", tmp_path / "cut", "--scale", 255
    assert microseg(*maps, "--threshold", 0.5).code == 0
    assert microseg(*maps, "--threshold", 0.6).code == 1
    labels = "annotate", "--images", data / "images", "--annotations", data / "masks", "--format", "index", *CLASSES
    assert microseg(*labels, "--output", tmp_path / "masks").code == 0
    assert microseg(*labels, "--output", tmp_path / "masks").code == 2
