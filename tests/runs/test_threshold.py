"""The threshold job: numpy's `probabilities > threshold`, whatever the file; areas that are counted, not guessed."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from microseg_ray.errors import RunMismatchError, SettingsError, StoreError
from microseg_ray.on_ray.actors import segment
from microseg_ray.runs.derived.threshold import threshold, threshold_mask
from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.verify import verify
from microseg_ray.settings import SegmentSettings, ThresholdSettings, VerifySettings, settings_from
from microseg_ray.sources import read_mask

SHAPE = (40, 60)


def settings(**options) -> ThresholdSettings:
    paths = {"probabilities", "run", "output"}
    return ThresholdSettings(**{key: str(value) if key in paths else value for key, value in options.items()})


def rows_of(path):
    with path.open(newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.fixture(scope="module")
def values():
    found = np.random.default_rng(0).random(SHAPE)
    found[0, :4] = [0.5, 0.25, 1.0, 0.0]
    return found.astype(np.float32)


@given(arrays(np.float64, 30, elements=st.floats(0, 1) | st.just(np.nan)), st.floats(-1, 1))
def test_the_mask_is_numpys(values, chosen):
    mask = threshold_mask(values, chosen)
    np.testing.assert_array_equal(mask == 1, values > chosen)
    np.testing.assert_array_equal(mask == 255, np.isnan(values))
    assert set(np.unique(mask)) <= {0, 1, 255}
    assert threshold_mask(np.array([chosen, chosen]).clip(0, 1), float(np.clip(chosen, 0, 1))).tolist() == [0, 0]


def test_half_precision_is_compared_exactly():
    """3001/4096 is no number of half precision; comparing there would round the threshold."""
    every = np.arange(0, 0x3C01, dtype=np.uint16).view(np.float16)
    for step in (1, 2049, 3001, 4095):
        mask = threshold_mask(every, step / 4096)
        np.testing.assert_array_equal(mask == 1, every.astype(np.float64) > step / 4096)


def write_map(folder, kind, values):
    folder.mkdir()
    path = folder / f"a.{kind.partition('-')[0]}"
    match kind:
        case "csv":
            np.savetxt(path, values)
        case "csv-comma":
            np.savetxt(path, values, delimiter=",")
        case "npy":
            np.save(path, values)
        case "tif":
            tifffile.imwrite(path, values, tile=(16, 16))
        case "zarr":
            zarr.create_array(str(path), data=values, chunks=(16, 16))
        case "zarr-channels":
            zarr.create_array(str(path), data=np.stack([1 - values, values]), chunks=(1, 16, 16))
    return path


@pytest.mark.parametrize("kind", ["csv", "csv-comma", "npy", "tif", "zarr", "zarr-channels"])
@pytest.mark.parametrize("form", ["png", "tiff", "zarr"])
def test_every_format_in_and_out(tmp_path, values, kind, form):
    path = write_map(tmp_path / "in", kind, values)
    channel = 1 if kind == "zarr-channels" else None
    found = threshold(
        settings(
            probabilities=path, threshold=0.5, output=tmp_path / "o", format=form, channel=channel, pixel_size_um=0.5
        )
    )
    assert not found.failures
    suffix = {"png": "png", "tiff": "tif", "zarr": "zarr"}[form]
    mask = read_mask(tmp_path / f"o/masks/a.{suffix}")
    np.testing.assert_array_equal(mask, (values > 0.5).astype(np.uint8))
    rows = rows_of(tmp_path / "o/areas.csv")
    count = int((values > 0.5).sum())
    assert [row["class_name"] for row in rows] == ["rest", "above"]
    assert int(rows[1]["pixel_count"]) == count
    assert float(rows[1]["area_fraction"]) == count / values.size
    assert float(rows[1]["area_um2"]) == pytest.approx(count * 0.25)


def test_a_folder_with_bad_maps_goes_on(tmp_path, values, microseg):
    folder = tmp_path / "maps"
    (folder / "sub").mkdir(parents=True)
    np.savetxt(folder / "good.csv", values)
    np.save(folder / "sub/other.npy", np.where(values > 0.9, np.nan, values))
    (folder / "words.csv").write_text("a,b\nc,d\n")
    np.save(folder / "eight.npy", (values * 255).astype(np.uint8))
    np.save(folder / "three.npy", np.stack([values] * 3))
    np.savetxt(folder / "good.txt", values)
    np.save(folder / "objects.npy", np.array([[None]]), allow_pickle=True)
    ran = microseg("threshold", folder, "--threshold", 0.5, "--output", tmp_path / "o", "--class_name", "void")
    assert ran.code == 3, ran.err
    reasons = {row["path"].rsplit("/", 1)[-1]: row["reason"] for row in rows_of(tmp_path / "o/failures.csv")}
    assert set(reasons) == {"words.csv", "eight.npy", "three.npy", "good.txt", "objects.npy"}
    assert "no table of numbers" in reasons["words.csv"]
    assert "--scale 255" in reasons["eight.npy"]
    assert "--channel 0 to 2" in reasons["three.npy"]
    assert "would replace that of good.csv" in reasons["good.txt"]
    rows = rows_of(tmp_path / "o/areas.csv")
    assert [(row["micrograph"], row["class_name"]) for row in rows[:2]] == [("good.csv", "rest"), ("good.csv", "void")]
    assert rows[1]["area_um2"] == ""
    measured = int(rows[3]["measured_pixel_count"])
    assert measured == int((values <= 0.9).sum())
    assert int(rows[3]["pixel_count"]) == int(((values > 0.5) & (values <= 0.9)).sum())


def test_eight_bit_maps_with_their_scale(tmp_path, values):
    eight = np.rint(values * 255).astype(np.uint8)
    Image.fromarray(eight).save(tmp_path / "a.tif")
    found = threshold(settings(probabilities=tmp_path / "a.tif", threshold=0.4, scale=255, output=tmp_path / "o"))
    assert found.areas[1].pixel_count == int((eight / 255 > 0.4).sum())


def test_two_thresholds_are_not_mixed(tmp_path, values):
    np.save(tmp_path / "a.npy", values)
    common = {"probabilities": tmp_path / "a.npy", "output": tmp_path / "o"}
    threshold(settings(**common, threshold=0.5))
    threshold(settings(**common, threshold=0.5))
    with pytest.raises(RunMismatchError, match="threshold"):
        threshold(settings(**common, threshold=0.6))
    again = threshold(settings(**common, threshold=0.6, overwrite=True))
    assert again.areas[1].pixel_count == int((values > 0.6).sum())
    assert json.loads((tmp_path / "o/threshold.json").read_text())["threshold"] == 0.6


@pytest.fixture(scope="module")
def parent(archive, checkpoint, tmp_path_factory):
    output = tmp_path_factory.mktemp("parent") / "run"
    chosen = {"archive": str(archive), "checkpoint": str(checkpoint), "output": str(output), "workers": 0, "shard": 256}
    return segment(
        settings_from(SegmentSettings, {**chosen, "extra": "probabilities", "pixel_size_um": (0.5, 0.25)})
    ).run


def test_a_run_gives_a_run(parent, tmp_path):
    found = threshold(settings(run=parent.folder, class_name="GRAIN", threshold=0.3, output=tmp_path / "o"))
    assert not found.failures
    run = Run.open(tmp_path / "o")
    assert [spec.name for spec in run.classes] == ["rest", "grain"]
    assert run.names() == parent.names()
    for name in run.names():
        stored = zarr.open_array(f"{parent.store_path(name)}/probabilities", mode="r")[1].astype(np.float32)
        store = MaskStore.open(run.store_path(name))
        assert store.finished
        np.testing.assert_array_equal(np.asarray(store.mask[:]), (stored > 0.3).astype(np.uint8))
        rows = [row for row in found.areas if row.micrograph == name]
        assert rows[1].pixel_count == int((stored > 0.3).sum())
        assert rows[1].area_um2 == pytest.approx(rows[1].pixel_count * 0.125)
    checked = verify(settings_from(VerifySettings, {"run": str(run.folder)}))
    assert not checked.problems
    assert checked.recomputed == 0
    assert checked.recounted > 0


def test_a_run_is_resumed_and_its_bytes_are_the_same(parent, tmp_path, tree_of):
    chosen = settings(run=parent.folder, class_name="pore", threshold=0.3, output=tmp_path / "o")
    threshold(chosen)
    first = tree_of(tmp_path / "o")
    name = parent.names()[0]
    MaskStore.open(Run.open(tmp_path / "o").store_path(name)).forget((0, 0))
    assert tree_of(tmp_path / "o") != first
    threshold(chosen)
    assert tree_of(tmp_path / "o") == first


def test_what_a_run_cannot_give(parent, archive, checkpoint, tmp_path):
    common = {"run": parent.folder, "threshold": 0.3}
    with pytest.raises(SettingsError, match="it has matrix, grain, pore"):
        threshold(settings(**common, class_name="hole", output=tmp_path / "o"))
    with pytest.raises(SettingsError, match="lies in, the run"):
        threshold(settings(**common, class_name="pore", output=parent.folder / "masks/o"))
    chosen = {"archive": str(archive / "exact.tif"), "checkpoint": str(checkpoint), "workers": 0}
    plain = segment(settings_from(SegmentSettings, {**chosen, "output": str(tmp_path / "plain")})).run
    with pytest.raises(StoreError, match="--extra probabilities"):
        threshold(settings(run=plain.folder, threshold=0.3, class_name="pore", output=tmp_path / "o"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--threshold", "0.5", "--output", "o"], "either probabilities"),
        (["a.csv", "--run", "r", "--threshold", "0.5", "--output", "o"], "either probabilities"),
        (["--run", "r", "--threshold", "0.5", "--output", "o"], "class_name"),
        (["a.csv", "--output", "o"], "threshold"),
        (["a.csv", "--threshold", "7", "--output", "o"], "threshold"),
    ],
)
def test_what_goes_together_is_checked(microseg, options, message):
    ran = microseg("threshold", *options)
    assert ran.code == 2
    assert message in ran.err


def test_a_config_is_told_from_a_map(microseg, tmp_path, values):
    np.save(tmp_path / "a.npy", values)
    (tmp_path / "c.yaml").write_text(
        f"threshold: {{probabilities: {tmp_path}/a.npy, threshold: 0.5, output: {tmp_path}/o}}\n"
    )
    assert microseg("threshold", tmp_path / "c.yaml").code == 0
    assert (tmp_path / "o/masks/a.png").is_file()


def test_rows_without_a_probability_never_become_a_class(tmp_path, checkpoint, microseg):
    """Below an info bar no run has a probability, whichever side of the threshold 0 or NaN would be on."""
    pixels = np.random.default_rng(0).integers(0, 255, (64, 48), np.uint8)
    (tmp_path / "a").mkdir()
    tifffile.imwrite(tmp_path / "a" / "x.tif", pixels)
    named = "--archive", tmp_path / "a", "--checkpoint", checkpoint, "--output", tmp_path / "run", "--workers", 0
    assert microseg("segment", *named, "--extra", "probabilities", "--source.info_bar", 10).code == 0
    for number, limit in enumerate((-0.5, 0.5)):
        chosen = "--class_name", "pore", "--threshold", limit
        assert microseg("threshold", "--run", tmp_path / "run", *chosen, "--output", tmp_path / f"r{number}").code == 0
        mask = MaskStore.open(tmp_path / f"r{number}" / "masks" / "x.tif.zarr").mask[:]
        assert (mask[54:] == 255).all()
        assert not (mask[:54] == 255).any()
        maps = tmp_path / f"maps{number}"
        written = microseg("probabilities", "--run", tmp_path / "run", "--output", maps, "--class_name", "pore")
        assert written.code == 0
        cut = "--probabilities", maps / "maps", "--threshold", limit, "--output", tmp_path / f"m{number}"
        assert microseg("threshold", *cut).code == 0
        (image,) = (tmp_path / f"m{number}" / "masks").iterdir()
        np.testing.assert_array_equal(np.asarray(Image.open(image)), mask)
