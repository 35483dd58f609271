"""Probability maps of a run as files: the same numbers in every format, on the micrograph's own pixels."""

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microseg_ray.errors import RunMismatchError, SettingsError, StoreError
from microseg_ray.geometry import Box
from microseg_ray.on_ray.actors import segment
from microseg_ray.runs.derived.threshold import threshold_mask
from microseg_ray.runs.folder import Run
from microseg_ray.runs.probabilities import write_probabilities
from microseg_ray.settings import ProbabilitiesSettings, SegmentSettings, settings_from
from microseg_ray.sources.probability_maps import open_map


def run_of(folder, output, checkpoint, **changes):
    chosen = {
        "archive": str(folder),
        "checkpoint": str(checkpoint),
        "output": str(output),
        "workers": 0,
        "precision": "fp32",
    }
    return segment(settings_from(SegmentSettings, chosen | {"extra": "probabilities"} | changes)).run


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """Three micrographs, one of odd sides and one whose name ends in the letters of its suffix."""
    folder = tmp_path_factory.mktemp("maps") / "archive"
    (folder / "sub").mkdir(parents=True)
    for number, (name, shape) in enumerate({"a": (101, 77), "ping.png": (64, 64), "sub/c": (40, 50)}.items()):
        pixels = np.random.default_rng(number).integers(0, 255, shape, np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


@pytest.fixture(scope="module")
def run(archive, checkpoint, tmp_path_factory):
    return run_of(archive, tmp_path_factory.mktemp("maps") / "run", checkpoint)


def stored(run, name, index):
    return zarr.open_array(f"{run.store_path(name)}/probabilities", mode="r")[index].astype(np.float64)


def written(run, output, **changes):
    return write_probabilities(
        settings_from(ProbabilitiesSettings, {"run": str(run.folder), "output": str(output)} | changes)
    )


@pytest.mark.parametrize("kind", ["csv", "npy", "tiff", "zarr"])
def test_every_format_holds_the_models_own_numbers(run, tmp_path, kind):
    done = written(run, tmp_path / "o", format=kind, class_name="PORE")
    assert not done.failures
    suffix = {"csv": "csv", "npy": "npy", "tiff": "tif", "zarr": "zarr"}[kind]
    names = ["a_pore", "ping.png_pore", "sub/c_pore"]
    assert done.maps == [tmp_path / f"o/maps/{name}.{suffix}" for name in names]
    for path, name in zip(done.maps, run.names(), strict=True):
        with open_map(path) as found:
            values = np.asarray(found.read(Box(0, 0, *found.shape)), np.float64)
        np.testing.assert_array_equal(values, stored(run, name, 2))
        assert 0 <= values.min() <= values.max() <= 1
    assert not [path for path in (tmp_path / "o").rglob(".*") if path.name not in {".lock", ".epoch", ".microseg.json"}]


def test_small_ones_are_csv_for_numpy_and_large_ones_zarr(run, tmp_path):
    done = written(run, tmp_path / "o", csv_pixels=64 * 64)
    assert [path.name for path in done.maps[:4]] == [
        "a_matrix.zarr", "a_grain.zarr", "a_pore.zarr", "ping.png_matrix.csv"
    ]  # fmt: skip
    values = np.loadtxt(tmp_path / "o/maps/ping.png_matrix.csv")
    np.testing.assert_array_equal(values, stored(run, "ping.png.png", 0))
    total = sum(np.loadtxt(tmp_path / f"o/maps/sub/c_{name}.csv") for name in ("matrix", "grain", "pore"))
    np.testing.assert_allclose(total, 1, atol=2e-3)


@settings(max_examples=20)
@given(st.floats(0, 1))
def test_a_threshold_gives_the_mask_of_the_run(csv_map, chosen):
    values, own = csv_map
    np.testing.assert_array_equal(threshold_mask(values, chosen), threshold_mask(own, chosen))


@pytest.fixture(scope="module")
def csv_map(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("csv")
    written(run, folder / "o", format="csv", class_name="grain")
    return np.loadtxt(folder / "o/maps/a_grain.csv"), stored(run, "a.png", 1)


def test_an_empty_image_is_not_stretched(checkpoint, tmp_path):
    (tmp_path / "archive").mkdir()
    Image.fromarray(np.full((48, 48), 90, np.uint8)).save(tmp_path / "archive/flat.png")
    run = run_of(tmp_path / "archive", tmp_path / "run", checkpoint)
    done = written(run, tmp_path / "o", class_name="pore")
    np.testing.assert_array_equal(np.loadtxt(done.maps[0]), stored(run, "flat.png", 2))


def test_what_cannot_be_written(run, archive, checkpoint, tmp_path):
    with pytest.raises(SettingsError, match=r"probabilities.class_name: 'hole' is not one class"):
        written(run, tmp_path / "o", class_name="hole")
    with pytest.raises(SettingsError, match="lies in the run's masks"):
        written(run, run.folder / "masks/o")
    plain = run_of(archive / "ping.png.png", tmp_path / "plain", checkpoint, extra="none")
    with pytest.raises(StoreError, match="--extra probabilities"):
        written(plain, tmp_path / "o")
    written(run, tmp_path / "o", class_name="pore", format="npy")
    other = run_of(archive / "ping.png.png", tmp_path / "other", checkpoint)
    with pytest.raises(RunMismatchError, match="another run"):
        written(other, tmp_path / "o")
    written(other, tmp_path / "o", overwrite=True, format="npy")


def test_failures_of_the_run_and_shared_names_are_listed(archive, checkpoint, tmp_path, microseg):
    folder = tmp_path / "archive"
    folder.mkdir()
    pixels = np.zeros((32, 32), np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    Image.fromarray(pixels).save(folder / "a.bmp")
    (folder / "bad.png").write_bytes(b"no picture")
    run = run_of(folder, tmp_path / "run", checkpoint)
    ran = microseg("probabilities", "--run", tmp_path / "run", "--output", tmp_path / "o", "--class_name", "pore")
    assert ran.code == 3, ran.err
    reasons = (tmp_path / "o/failures.csv").read_text(encoding="utf-8")
    assert "bad.png" in reasons
    assert "would replace those of a.bmp" in reasons
    assert Run.open(run.folder).names() == ["a.bmp", "a.png"]
