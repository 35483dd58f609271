"""The evaluate job: scikit-learn's figures, whatever the predictions come as; nothing is left out silently."""

from __future__ import annotations

import csv
import json
import warnings

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, jaccard_score, precision_recall_fscore_support

from microseg_ray.errors import InputError, SettingsError
from microseg_ray.evaluation.job import evaluate
from microseg_ray.on_ray.actors import segment
from microseg_ray.settings import EvaluateSettings, SegmentSettings
from microseg_ray.sources import read_mask

CLASSES = ["matrix", "grain", "pore"]


def figures(truth: np.ndarray, guess: np.ndarray) -> dict[str, object]:
    """The shape of metrics.json by scikit-learn; None where a figure is not defined."""
    known = truth != 255
    truth, guess = truth[known], guess[known]
    labels = range(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        precision, recall, f1, support = precision_recall_fscore_support(
            truth, guess, labels=labels, zero_division=np.nan
        )
        iou = jaccard_score(truth, guess, labels=labels, average=None, zero_division=0)
    iou = np.where(np.isin(labels, np.union1d(truth, guess)), iou, np.nan)

    def plain(value):
        return None if np.isnan(value) else float(value)

    return {
        "pixel_accuracy": accuracy_score(truth, guess),
        "mean_iou": float(np.nanmean(iou)),
        "classes": {
            index: {
                "iou": plain(iou[index]),
                "precision": plain(precision[index]),
                "recall": plain(recall[index]),
                "f1": plain(f1[index]),
                "support": int(support[index]),
            }
            for index in labels
        },
    }


def mean(images: list[dict]) -> dict[str, object]:
    def average(values):
        held = [value for value in values if value is not None]
        return sum(held) / len(held) if held else None

    return {
        **{key: average([image[key] for image in images]) for key in ("pixel_accuracy", "mean_iou")},
        "classes": {
            index: {
                key: average([image["classes"][index][key] for image in images])
                for key in ("iou", "precision", "recall", "f1")
            }
            for index in range(3)
        },
    }


def assert_same(document: dict, expected: dict, names: list[str]) -> None:
    for key in ("pixel_accuracy", "mean_iou"):
        assert document[key] == pytest.approx(expected[key], abs=1e-12)
    assert list(document["classes"]) == names
    for index, name in enumerate(names):
        for key, value in expected["classes"][index].items():
            assert document["classes"][name][key] == (value if value is None else pytest.approx(value, abs=1e-12)), (
                name,
                key,
            )


def settings(**options) -> EvaluateSettings:
    return EvaluateSettings(
        figures=options.pop("figures", False),
        **{
            key: str(value) if key in {"masks", "images", "predictions", "checkpoint", "output"} else value
            for key, value in options.items()
        },
    )


@pytest.fixture(scope="module")
def guesses(pairs, tmp_path_factory):
    """Predicted masks of the pairs: every tenth pixel is wrong, and one micrograph is predicted as one class."""
    folder = tmp_path_factory.mktemp("guesses")
    for number, path in enumerate(sorted((pairs / "masks").iterdir())):
        generator = np.random.default_rng(number)
        mask = read_mask(path).copy()
        wrong = (generator.random(mask.shape) < 0.1) | (mask == 255)
        mask[wrong] = generator.integers(0, 3, wrong.sum())
        Image.fromarray(np.zeros_like(mask) if number == 5 else mask).save(folder / path.name)
    return folder


def both(truth_folder, guess_folder):
    names = sorted(path.name for path in guess_folder.iterdir())
    return [(read_mask(truth_folder / name), read_mask(guess_folder / name)) for name in names]


def test_pooled_and_per_image_equal_scikit_learn(pairs, guesses, tmp_path):
    evaluate(settings(masks=pairs / "masks", predictions=guesses, output=tmp_path, classes=CLASSES))
    document = json.loads((tmp_path / "metrics.json").read_text())
    masks = both(pairs / "masks", guesses)
    pooled = figures(
        np.concatenate([truth.ravel() for truth, _ in masks]), np.concatenate([guess.ravel() for _, guess in masks])
    )
    assert_same(document["pooled"], pooled, CLASSES)
    assert_same(document["per_image"], mean([figures(*pair) for pair in masks]), CLASSES)
    assert document["micrographs"] == 12
    assert document["classes"] == CLASSES
    with (tmp_path / "per_image.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 12
    for row, pair in zip(rows, masks, strict=True):
        assert float(row["mean_iou"]) == pytest.approx(figures(*pair)["mean_iou"], abs=1e-12)


def test_real_predictions_equal_scikit_learn(real_data, tmp_path):
    chosen = {
        "masks": real_data / "mudrock/labels",
        "predictions": real_data / "mudrock/seed_pred",
        "classes": ["clay", "silt", "pore"],
    }
    result = evaluate(
        settings(**chosen, output=tmp_path, split="test", group=r"^(\d+_\d+)_", splits={"test": ["15_1", "15_2"]})
    )
    names = sorted(path.name for path in (real_data / "mudrock/labels").glob("15_[12]_*"))
    assert len(names) == 6
    assert sorted(result.per_image) == names
    pairs = [
        (read_mask(real_data / "mudrock/labels" / name), read_mask(real_data / "mudrock/seed_pred" / name))
        for name in names
    ]
    document = json.loads((tmp_path / "metrics.json").read_text())
    pooled = figures(
        np.concatenate([truth.ravel() for truth, _ in pairs]), np.concatenate([guess.ravel() for _, guess in pairs])
    )
    assert_same(document["pooled"], pooled, ["clay", "silt", "pore"])
    assert_same(document["per_image"], mean([figures(*pair) for pair in pairs]), ["clay", "silt", "pore"])
    assert sum(map(sum, document["confusion_matrix"])) == sum(np.count_nonzero(truth != 255) for truth, _ in pairs)


@pytest.fixture(scope="module")
def run(pairs, checkpoint, tmp_path_factory):
    output = tmp_path_factory.mktemp("evaluated") / "run"
    return segment(
        SegmentSettings(archive=f"{pairs}/images", checkpoint=str(checkpoint), output=str(output), workers=0)
    ).run


def test_a_checkpoint_a_run_and_its_masks_say_the_same(pairs, checkpoint, run, tmp_path):
    """The masks that a checkpoint predicts here are those that segment writes."""
    by_run = evaluate(settings(masks=pairs / "masks", predictions=run.folder, output=tmp_path / "run"))
    by_model = evaluate(
        settings(images=pairs / "images", masks=pairs / "masks", checkpoint=checkpoint, output=tmp_path / "model")
    )
    assert by_run.per_image == by_model.per_image
    assert by_run.pooled == by_model.pooled
    assert by_run.classes == by_model.classes == tuple(CLASSES)
    truth = read_mask(pairs / "masks/2_a.png")
    guess = read_mask(run.store_path("2_a.png"))
    known = truth != 255
    assert by_run.per_image["2_a.png"].counts.tolist() == [
        [int(((truth == row) & (guess == column))[known].sum()) for column in range(3)] for row in range(3)
    ]


def test_a_run_pairs_by_folder_before_it_pairs_by_name(pairs, checkpoint, tmp_path):
    for number, folder in enumerate(("x", "y")):
        for part in ("images", "masks"):
            (tmp_path / part / folder).mkdir(parents=True)
            source = sorted((pairs / part).iterdir())[number]
            (tmp_path / part / folder / "same.png").write_bytes(source.read_bytes())
    segment(
        SegmentSettings(
            archive=str(tmp_path / "images"), checkpoint=str(checkpoint), output=str(tmp_path / "run"), workers=0
        )
    )
    by_run = evaluate(settings(masks=tmp_path / "masks", predictions=tmp_path / "run", output=tmp_path / "a"))
    by_model = evaluate(
        settings(images=tmp_path / "images", masks=tmp_path / "masks", checkpoint=checkpoint, output=tmp_path / "b")
    )
    assert sorted(by_run.per_image) == ["x/same.png", "y/same.png"]
    assert by_run.per_image == by_model.per_image


def test_suffixes_pair_predictions(pairs, guesses, tmp_path):
    for name in ("0_a", "0_b"):
        for folder, part, suffix in ((pairs / "masks", "true", "_mask"), (guesses, "guess", "_pred")):
            (tmp_path / part).mkdir(exist_ok=True)
            (tmp_path / part / f"{name}{suffix}.png").write_bytes((folder / f"{name}.png").read_bytes())
    result = evaluate(
        settings(
            masks=tmp_path / "true",
            predictions=tmp_path / "guess",
            mask_suffix="_mask",
            prediction_suffix="_pred",
            output=tmp_path / "o",
            classes=CLASSES,
        )
    )
    assert len(result.per_image) == 2


def test_a_split_is_chosen(pairs, guesses, tmp_path):
    data = {"group": r"^(\d+)_", "splits": {"test": ["2"]}}
    result = evaluate(
        settings(masks=pairs / "masks", predictions=guesses, output=tmp_path, classes=CLASSES, split="test", **data)
    )
    assert sorted(result.per_image) == ["2_a.png", "2_b.png", "2_c.png"]
    with pytest.raises(
        SettingsError, match=r"evaluate\.split: no micrograph is in split 'tset'; there are test, train"
    ):
        evaluate(
            settings(masks=pairs / "masks", predictions=guesses, output=tmp_path, classes=CLASSES, split="tset", **data)
        )


def test_what_has_no_partner_or_another_size_is_listed(pairs, guesses, microseg, tmp_path):
    (tmp_path / "guess").mkdir()
    for path in sorted(guesses.iterdir())[:4]:
        (tmp_path / "guess" / path.name).write_bytes(path.read_bytes())
    Image.fromarray(np.zeros((5, 6), np.uint8)).save(tmp_path / "guess/0_b.png")
    Image.fromarray(np.full((96, 80), 7, np.uint8)).save(tmp_path / "guess/0_c.png")
    ran = microseg(
        "evaluate",
        "--masks",
        pairs / "masks",
        "--predictions",
        tmp_path / "guess",
        "--output",
        tmp_path / "o",
        "--classes",
        '["matrix", "grain", "pore"]',
    )
    assert ran.code == 3, ran.err
    with (tmp_path / "o/failures.csv").open(newline="") as handle:
        rows = {row["path"].rsplit("/", 1)[-1]: row["reason"] for row in csv.DictReader(handle)}
    assert set(rows) == {path.name for path in guesses.iterdir()} - {"0_a.png", "1_a.png"}
    assert "96 x 80 px, the prediction 5 x 6" in rows["0_b.png"]
    assert "value 7" in rows["0_c.png"]
    assert "no mask named 3_c" in rows["3_c.png"]
    assert json.loads((tmp_path / "o/metrics.json").read_text())["micrographs"] == 2
    assert "classification report" in ran.out


def test_a_run_lists_what_it_does_not_have(pairs, new_pairs, run, tmp_path):
    new_pairs(tmp_path, 5)
    result = evaluate(settings(masks=tmp_path / "masks", predictions=run.folder, output=tmp_path / "o"))
    assert [failure.path.rsplit("/", 1)[-1] for failure in result.failures] == ["4_a.png", "4_b.png", "4_c.png"]


def test_colour_is_not_read_as_gray(pairs, checkpoint, tmp_path):
    """A model of one channel must not silently take the first of three."""
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for name in ("0_a.png", "0_b.png"):
        (tmp_path / "masks" / name).write_bytes((pairs / "masks" / name).read_bytes())
    (tmp_path / "images/0_a.png").write_bytes((pairs / "images/0_a.png").read_bytes())
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (96, 80, 3), np.uint8)).save(tmp_path / "images/0_b.png")
    result = evaluate(
        settings(images=tmp_path / "images", masks=tmp_path / "masks", checkpoint=checkpoint, output=tmp_path / "o")
    )
    assert list(result.per_image) == ["0_a.png"]
    assert "3 different colour channels" in result.failures[0].reason


def test_classes_that_nobody_names_go_by_their_number(pairs, guesses, tmp_path):
    named = evaluate(settings(masks=pairs / "masks", predictions=guesses, output=tmp_path / "a", classes=CLASSES))
    unnamed = evaluate(settings(masks=pairs / "masks", predictions=guesses, output=tmp_path / "b"))
    assert unnamed.classes == ("0", "1", "2")
    assert unnamed.pooled == named.pooled


def test_too_few_classes_are_refused(pairs, guesses, tmp_path):
    with pytest.raises(InputError, match="value 2"):
        evaluate(settings(masks=pairs / "masks", predictions=guesses, output=tmp_path, classes=["one", "two"]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--predictions", "x", "--checkpoint", "y", "--masks", "m"], "either predictions"),
        (["--masks", "m"], "either predictions"),
        (["--predictions", "x"], "masks"),
        (["--checkpoint", "x", "--masks", "m"], "images"),
    ],
)
def test_what_goes_together_is_checked(microseg, tmp_path, options, message):
    ran = microseg("evaluate", "--output", tmp_path, *options)
    assert ran.code == 2
    assert message in ran.err
