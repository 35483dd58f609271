"""Classes of whole micrographs: folders to splits that nothing crosses, views of any file, equal weights, a table."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from microseg_ray.classification import (
    GradientRule,
    Verdict,
    find_labelled,
    fit_classifier,
    fit_rule,
    judged,
    load_classifier,
    read_views,
)
from microseg_ray.classification.fit import augmented
from microseg_ray.classification.views import Seeing, window_starts
from microseg_ray.errors import CheckpointError, InputError, SettingsError
from microseg_ray.fitting.augmentation import draw
from microseg_ray.settings import (
    AugmentSettings,
    ClassifierJobSettings,
    Scaling,
    ViewSettings,
    load_settings,
    settings_from,
)

REPOSITORY = Path(__file__).resolve().parents[2]
SMALL = {"height": 48, "width": 64}
SEEING = Seeing(ViewSettings(), (48, 64), 3, Scaling())


def texture(seed: int, period: int, shape: tuple[int, int] = (96, 128)) -> np.ndarray:
    """Random squares of a side of `period` px: coarse or fine."""
    rng = np.random.default_rng([seed, period])
    cells = rng.integers(40, 216, (shape[0] // period + 1, shape[1] // period + 1), np.uint8)
    return np.kron(cells, np.ones((period, period), np.uint8))[: shape[0], : shape[1]]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Ten micrographs a class, in a folder each."""
    root = tmp_path_factory.mktemp("classes")
    for name, period in (("coarse", 24), ("fine", 6)):
        (root / name).mkdir()
        for number in range(10):
            Image.fromarray(texture(number, period)).save(root / name / f"{number}.png")
    return root


def settings(images, output="unused", **options) -> ClassifierJobSettings:
    chosen = {
        "epochs": 25,
        "batch": 4,
        "model": SMALL,
        "threads": 1,
        "splits": {"val": 0.2, "test": 0.3},
        "stratify": True,
        "optimizer": {"name": "adam", "learning_rate": 2e-3, "schedule": "constant", "warmup": 0},
    }
    given_ = {"images": str(images), "output": str(output), **chosen, **options}
    return settings_from(ClassifierJobSettings, given_)


@pytest.fixture(scope="module")
def fitted(folders, tmp_path_factory):
    """A classifier of these, fitted once for the tests of this file."""
    output = tmp_path_factory.mktemp("fit")
    return fit_classifier(settings(folders, output, seed=45)), output


def table_of(path):
    with path.open(encoding="utf-8", newline="") as handle:
        return {row["micrograph"]: row for row in csv.DictReader(handle)}


# Folders to classes, groups and splits.


def test_classes_are_folders_in_alphabetical_order_and_splits_spread_them(folders):
    labelled = find_labelled(settings(folders))
    assert labelled.classes == ("coarse", "fine")
    assert all(labelled.classes[item.label] == item.row.name.split("/")[0] for item in labelled.rows)
    for split, each in (("train", 5), ("val", 2), ("test", 3)):
        assert [sum(item.label == label for item in labelled.of(split)) for label in (0, 1)] == [each, each]
    assert find_labelled(settings(folders)).rows == labelled.rows
    assert find_labelled(settings(folders, seed=1)).rows != labelled.rows


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3))])
def test_copies_and_mirrors_never_cross_a_split(tmp_path, seed):
    for name, period in (("coarse", 24), ("fine", 6)):
        (tmp_path / name).mkdir()
        for number in range(5):
            pixels = texture(number, period)
            for suffix, own in (("", pixels), ("m", pixels[:, ::-1]), ("r", np.rot90(pixels))):
                Image.fromarray(own).save(tmp_path / name / f"{number}{suffix}.png")
    labelled = find_labelled(settings(tmp_path, seed=seed))
    homes: dict[str, set[str]] = {}
    for item in labelled.rows:
        homes.setdefault(item.row.name.split(".")[0].rstrip("mr"), set()).add(item.row.split)
    assert len(homes) == 10
    assert all(len(splits) == 1 for splits in homes.values())
    assert labelled.leaks == []


def test_leaks_between_split_folders_stop_are_dropped_or_are_kept(tmp_path):
    for split, number, period in (
        *(("train", number, period) for number in range(3) for period in (24, 6)),
        *(("test", 7, period) for period in (24, 6)),
    ):
        folder = tmp_path / split / ("coarse" if period == 24 else "fine")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(texture(number, period)).save(folder / f"{number}.png")
    Image.fromarray(texture(7, 6)[::-1]).save(tmp_path / "train" / "fine" / "7m.png")
    with pytest.raises(InputError, match=r"test/fine/7.png .* train/fine/7m.png .*drop_leaks"):
        find_labelled(settings(tmp_path, splits={}))
    dropped = find_labelled(settings(tmp_path, splits={}, drop_leaks=True))
    assert dropped.dropped == ["train/fine/7m.png"]
    assert sorted(item.row.name for item in dropped.of("test")) == ["test/coarse/7.png", "test/fine/7.png"]
    kept = find_labelled(settings(tmp_path, splits={}, audit="report"))
    assert len(kept.of("train")) == 7
    assert len(kept.leaks) == 1
    # A share is taken of the groups in train alone.
    shared = find_labelled(settings(tmp_path, splits={"val": 0.3}, drop_leaks=True))
    assert {item.row.name.split("/")[0] for item in shared.of("val")} == {"train"}
    assert len(shared.of("test")) == 2


def test_what_cannot_be_labelled_is_set_aside(folders, tmp_path):
    for name in ("coarse", "fine"):
        (tmp_path / name).mkdir()
        for number in range(3):
            (tmp_path / name / f"{number}.png").write_bytes((folders / name / f"{number}.png").read_bytes())
    (tmp_path / "coarse" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (tmp_path / "lost.png").write_bytes((folders / "fine" / "5.png").read_bytes())
    (tmp_path / "fine" / "claimed.png").write_bytes((folders / "coarse" / "0.png").read_bytes())
    labelled = find_labelled(settings(tmp_path, splits={}))
    reasons = {failure.path: failure.reason for failure in labelled.failures}
    assert set(reasons) == {"coarse/broken.png", "lost.png", "fine/claimed.png", "coarse/0.png"}
    assert "another class" in reasons["coarse/0.png"]
    assert len(labelled.rows) == 5


def test_classes_that_do_not_fit_are_named(folders):
    with pytest.raises(SettingsError, match="'fine' is none of coarse, medium"):
        find_labelled(settings(folders, classes=["coarse", "medium"]))
    with pytest.raises(SettingsError, match="no micrographs in a folder 'medium'"):
        find_labelled(settings(folders, classes=["coarse", "fine", "medium"]))
    with pytest.raises(SettingsError, match="two or more"):
        find_labelled(settings(folders / "*" / ".." / "coarse", classes=[]))


# Views.


def save_as(path, pixels, kind):
    match kind:
        case "gray":
            Image.fromarray(pixels).save(path)
        case "rgba":
            Image.fromarray(np.dstack([pixels, pixels, pixels, np.full_like(pixels, 255)])).save(path)
        case "16 bit":
            tifffile.imwrite(path, pixels.astype(np.uint16) * 257)


@pytest.mark.parametrize("kind", ["rgba", "16 bit"])
def test_a_micrograph_looks_the_same_in_every_kind_of_file(tmp_path, kind):
    pixels = texture(0, 6)
    save_as(tmp_path / "a.png", pixels, "gray")
    other = tmp_path / ("b.tif" if kind == "16 bit" else "b.png")
    save_as(other, pixels, kind)
    scaled = [
        (views.pixels - views.limits[0]) / (views.limits[1] - views.limits[0])
        for views in (read_views(tmp_path / "a.png", SEEING), read_views(other, SEEING))
    ]
    assert scaled[0].shape == (1, 3, 48, 64)
    np.testing.assert_allclose(scaled[0], scaled[1], atol=1 / 255)


def test_a_whole_micrograph_is_averaged_not_picked(tmp_path):
    board = (np.indices((96, 128)).sum(axis=0) % 2 * 255).astype(np.uint8)
    Image.fromarray(board).save(tmp_path / "a.png")
    inner = read_views(tmp_path / "a.png", SEEING).pixels[0, 0, 2:-2, 2:-2]
    assert np.abs(inner.astype(float) - 127.5).max() < 1


@given(st.tuples(*[st.integers(1, 300)] * 2), st.tuples(*[st.integers(1, 100)] * 2), st.integers(1, 40))
def test_windows_lie_inside_are_few_enough_and_cover_where_they_may(shape, size, most):
    starts = window_starts(shape, size, most)
    assert 1 <= len(starts) <= most
    assert len(set(starts)) == len(starts)
    seen = np.zeros(shape, bool)
    for y, x in starts:
        assert y == 0 or y + size[0] <= shape[0]
        assert x == 0 or x + size[1] <= shape[1]
        seen[y : y + size[0], x : x + size[1]] = True
    if -(-shape[0] // size[0]) * -(-shape[1] // size[1]) <= most:
        assert seen.all()


def test_crops_are_the_micrographs_own_pixels(tmp_path):
    pixels = texture(3, 6, (100, 70))
    Image.fromarray(pixels).save(tmp_path / "a.png")
    views = read_views(tmp_path / "a.png", replace(SEEING, views=ViewSettings(kind="crops"), channels=1)).pixels
    starts = window_starts((100, 70), (48, 64), 16)
    assert views.shape == (len(starts), 1, 48, 64)
    for (y, x), view in zip(starts, views, strict=True):
        np.testing.assert_array_equal(view[0], pixels[y : y + 48, x : x + 64])


@pytest.mark.parametrize("shape", [(6, 8), (8, 8)])
def test_augmentation_keeps_shape_and_pixels(shape):
    views = torch.arange(shape[0] * shape[1] * 64, dtype=torch.float32).reshape(64, 1, *shape)
    drawn = draw(0, 0, range(64), AugmentSettings(brightness=0, contrast=0))
    changed = augmented(views, drawn)
    assert changed.shape == views.shape
    assert torch.equal(changed.flatten(1).sort().values, views.flatten(1).sort().values)
    forms = {(tuple((after.flatten() - before.min()).tolist())) for after, before in zip(changed, views, strict=True)}
    assert len(forms) == (8 if shape[0] == shape[1] else 4)


# The rule to beat.


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), min_size=1, max_size=12))
def test_no_threshold_has_fewer_errors_than_the_fitted_one(pairs):
    values, labels = zip(*((float(value), label) for value, label in pairs), strict=True)
    truth = np.array(labels)

    def right(rule):
        return int((rule.predict(np.array(values)) == truth).sum())

    every = [GradientRule(place - 0.5, above) for place in range(11) for above in (0, 1)]
    assert right(fit_rule(values, labels)) == max(map(right, every))


def test_judgement_counts_micrographs():
    def verdict(share, truth):
        return Verdict("a", np.array([share, 1 - share]), 1, (1, 1), truth)

    matrix, document = judged(
        [verdict(0.9, 0), verdict(0.6, 1), verdict(0.2, 1), verdict(0.2, None)], ["coarse", "fine"]
    )
    assert matrix.counts.tolist() == [[1, 0], [1, 1]]
    assert document["micrographs"] == 3
    assert document["accuracy"] == 2 / 3
    assert document["classes"]["coarse"] == {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "support": 1}


# Fit and classify.


def test_a_fit_learns_and_writes_what_it_found(fitted):
    done, output = fitted
    assert done.metrics["test"]["accuracy"] == 1.0
    assert done.metrics["test"]["micrographs"] == 6
    written = json.loads((output / "evaluation" / "test" / "metrics.json").read_text(encoding="utf-8"))
    assert written == done.metrics["test"]
    assert {"accuracy", "threshold"} <= set(written["one_feature_rule"])
    for name in ("curves.png", "metrics.csv", "leaks.csv", "evaluation/val/confusion.png", "best/model.json"):
        assert (output / name).stat().st_size > 0
    losses = [row["val_loss"] for row in done.history]
    assert [row["epoch"] for row in done.history if row["best"]][-1] == losses.index(min(losses)) + 1


@pytest.mark.slow
def test_two_fits_have_equal_weights_and_another_seed_has_others(folders, tmp_path):
    weights = []
    for number, seed in enumerate((45, 45, 46)):
        done = fit_classifier(settings(folders, tmp_path / str(number), fit_seed=seed, seed=45, epochs=2))
        weights.append((done.last / "model.safetensors").read_bytes())
    assert weights[0] == weights[1] != weights[2]


def test_a_fit_is_not_written_over(fitted, folders):
    with pytest.raises(SettingsError, match="overwrite"):
        fit_classifier(settings(folders, fitted[1]))


def test_classify_takes_any_size_kind_and_path(fitted, tmp_path, microseg):
    archive = tmp_path / "an archive #1" / "fine"
    archive.mkdir(parents=True)
    pixels = texture(77, 6)
    save_as(archive / "gray.png", pixels, "gray")
    save_as(archive / "rgba.png", pixels, "rgba")
    save_as(archive / "deep.tif", pixels, "16 bit")
    Image.fromarray(pixels).resize((300, 170), Image.Resampling.LANCZOS).save(archive / "large (2).png")
    (archive / "broken.tif").write_bytes(b"II*\0")
    done, _ = fitted
    ran = microseg(
        "classify", "--archive", archive.parent, "--checkpoint", done.best, "--output", tmp_path / "out", "--truth"
    )
    assert ran.code == 3
    rows = table_of(tmp_path / "out" / "classes.csv")
    assert sorted(rows) == ["fine/deep.tif", "fine/gray.png", "fine/large (2).png", "fine/rgba.png"]
    for row in rows.values():
        assert row["class"] == "fine"
        shares = [float(row[f"probability_{name}"]) for name in ("coarse", "fine")]
        assert sum(shares) == pytest.approx(1, abs=2e-6)
        assert float(row["probability"]) == max(shares)
    assert rows["fine/gray.png"]["probability"] == rows["fine/rgba.png"]["probability"]
    assert float(rows["fine/deep.tif"]["probability"]) == pytest.approx(
        float(rows["fine/gray.png"]["probability"]), abs=0.02
    )
    failures = (tmp_path / "out" / "failures.csv").read_text(encoding="utf-8")
    assert "fine/broken.tif" in failures
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["accuracy"] == 1.0
    other = microseg("classify", "--archive", archive, "--checkpoint", done.best, "--output", tmp_path / "out")
    assert other.code == 2
    assert "another archive" in other.err


def test_training_and_classify_see_the_same(fitted, folders):
    """The probabilities of the evaluation are those of `classify`."""
    done, output = fitted
    classifier = load_classifier(done.best, threads=1)
    for name, row in table_of(output / "evaluation" / "test" / "classes.csv").items():
        found = classifier.probabilities(classifier.read(folders / name))
        assert float(row["probability_fine"]) == pytest.approx(found[1], abs=1e-5)


def test_crops_are_fitted_and_averaged(folders, tmp_path):
    done = fit_classifier(settings(folders, tmp_path, views={"kind": "crops", "most": 4}, channels="gray", epochs=8))
    assert done.metrics["test"]["accuracy"] == 1.0
    rows = table_of(tmp_path / "evaluation" / "test" / "classes.csv")
    assert {row["views"] for row in rows.values()} == {"4"}


@pytest.mark.parametrize("job", ["segment", "plan"])
def test_segment_refuses_a_classifier(fitted, folders, tmp_path, microseg, job):
    done, _ = fitted
    ran = microseg(job, "--archive", folders, "--checkpoint", done.best, "--output", tmp_path / "run", "--workers", "0")
    assert ran.code == 1
    assert "is a classifier" in ran.err
    assert "`classify`" in ran.err


def test_classify_refuses_a_model_of_pixels(checkpoint):
    with pytest.raises(CheckpointError, match="unet is a model of pixels"):
        load_classifier(checkpoint)


@pytest.mark.slow
def test_the_recipe_knows_what_the_real_folders_leak(real_data):
    """fine/7 and its mirrors, in both folders as the audit of the original has it, and nothing else of test."""
    labelled = find_labelled(settings(real_data / "grains", splits={}, drop_leaks=True))
    assert labelled.classes == ("coarse", "fine")
    assert labelled.dropped == ["train/fine/7.png", "train/fine/7m.png", "train/fine/7mm.png"]
    assert len(labelled.of("test")) == 18
    assert len({item.row.group for item in labelled.of("test")}) == 6
    assert not {item.row.group for item in labelled.of("test")} & {item.row.group for item in labelled.of("train")}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [45, 46, 47])
def test_every_leak_free_test_picture_is_right(real_data, tmp_path, seed):
    config = REPOSITORY / "configs" / "coarse_fine.yaml"
    # One thread: with another number of them the sums round otherwise, and 18 pictures are few.
    given_ = [
        "--images",
        str(real_data / "grains"),
        "--output",
        str(tmp_path),
        "--fit_seed",
        str(seed),
        "--threads",
        "1",
    ]
    done = fit_classifier(load_settings(ClassifierJobSettings, given_, config))
    assert done.metrics["test"]["confusion_matrix"] == [[9, 0], [0, 9]]
