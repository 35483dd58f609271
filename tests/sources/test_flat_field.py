"""Flat field: one background for a whole micrograph, so that no tile, shard or region shows; and nothing where it is off."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.models.checkpoint import load_checkpoint, save_checkpoint
from microseg_ray.models.predictor import Predictor
from microseg_ray.on_ray.actors import segment
from microseg_ray.on_ray.rows import tile
from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.settings import EvaluateSettings, Scaling, SegmentSettings, TileSettings, VerifySettings
from microseg_ray.sources import Micrograph, intensity_limits, open_micrograph, open_prepared
from microseg_ray.sources.choices import Parts
from microseg_ray.sources.specimen.flat_field import FlatField, FlatMicrograph, estimate_flat_field

MODES = ("divide", "subtract")


def shaded(shape, dtype, seed=0, channels=1):
    """Texture under a lamp that is three times as bright on one side, (y, x) or (y, x, c)."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    lamp = 0.25 + 0.5 * (0.7 * x / shape[1] + 0.3 * y / shape[0])
    texture = np.where(generator.random((shape[0] // 6 + 1, shape[1] // 6 + 1)) < 0.3, 0.7, 1.1)
    texture = np.kron(texture, np.ones((6, 6)))[: shape[0], : shape[1]]
    image = lamp * texture + generator.normal(0, 0.01, shape)
    if channels == 3:
        image = image[..., None] * np.array([1.0, 0.8, 0.5])
    scale = 1.0 if dtype == "float32" else np.iinfo(dtype).max
    return (np.clip(image, 0, 1) * scale).astype(dtype)


@pytest.fixture(scope="module")
def flat(tmp_path_factory):
    """Open corrected micrographs and what they hold whole, by dtype, channels and mode."""
    folder = tmp_path_factory.mktemp("shaded")
    found = {}
    for dtype, channels in (("uint8", 1), ("uint8", 3), ("uint16", 1), ("float32", 1)):
        path = folder / f"{dtype}{channels}.tif"
        photometric = "rgb" if channels == 3 else "minisblack"
        tifffile.imwrite(path, shaded((333, 411), dtype, channels=channels), tile=(64, 64), photometric=photometric)
        for mode in MODES:
            micrograph = open_prepared(path, Scaling(flat_field=mode))
            found[dtype, channels, mode] = (micrograph, micrograph.read(Box(0, 0, 333, 411)))
    yield found
    for micrograph, _ in found.values():
        micrograph.close()


@examples(max_examples=60)
@given(st.data())
def test_any_box_equals_the_same_box_of_the_whole(flat, data):
    micrograph, whole = flat[data.draw(st.sampled_from(sorted(flat)))]
    y0, x0 = data.draw(st.integers(0, 332)), data.draw(st.integers(0, 410))
    box = Box(y0, x0, data.draw(st.integers(y0, 333)), data.draw(st.integers(x0, 411)))
    part = micrograph.read(box)
    assert part.dtype == whole.dtype == micrograph.info.dtype
    np.testing.assert_array_equal(part, whole[(..., *box.slices)])


def corrected(value, mode, background, shape, y, x):
    """The correction of one pixel, in plain floats."""
    rows, columns = background.shape
    down = min(max((y + 0.5) * rows / shape[0] - 0.5, 0.0), rows - 1.0)
    right = min(max((x + 0.5) * columns / shape[1] - 0.5, 0.0), columns - 1.0)
    top, left = int(down), int(right)
    bottom, beyond = min(top + 1, rows - 1), min(left + 1, columns - 1)
    upper = background[top, left] * (1 - (right - left)) + background[top, beyond] * (right - left)
    lower = background[bottom, left] * (1 - (right - left)) + background[bottom, beyond] * (right - left)
    here, level = upper * (1 - (down - top)) + lower * (down - top), float(background.mean())
    return value * level / max(here, level / 8) if mode == "divide" else value - here + level


@examples(max_examples=60)
@given(
    st.sampled_from(MODES),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
    st.sampled_from(["uint8", "uint16", "float32"]),
    st.integers(0, 2**32 - 1),
)
def test_the_correction_is_what_it_says(mode, grid, shape, dtype, seed):
    generator = np.random.default_rng(seed)
    top = 1.0 if dtype == "float32" else float(np.iinfo(dtype).max)
    background = (generator.random((1, *grid)) * top).astype(np.float32)
    pixels = (generator.random((1, *shape)) * top).astype(dtype)
    found = FlatField(mode, background, shape).correct(pixels, Box.of_shape(shape))
    for y, x in np.ndindex(*shape):
        value = corrected(float(pixels[0, y, x]), mode, background[0].astype(float), shape, y, x)
        if dtype == "float32":
            assert found[0, y, x] == pytest.approx(value, rel=1e-4, abs=1e-5)
        else:
            assert abs(float(found[0, y, x]) - min(max(value, 0), top)) <= 0.5 + 1e-5 * top


@pytest.mark.parametrize(
    "key", [("uint8", 1, "divide"), ("uint16", 1, "divide"), ("float32", 1, "divide"), ("uint8", 3, "divide")]
)
def test_the_lamp_is_gone_and_the_mean_stays(flat, key):
    micrograph, whole = flat[key]
    raw = micrograph._micrograph.read(Box.of_shape(micrograph.info.shape))

    def unevenness(pixels):
        columns = np.median(pixels[0].astype(float), axis=0)
        return columns[-80:].mean() / columns[:80].mean()

    assert unevenness(raw) > 1.7
    assert abs(unevenness(whole) - 1) < 0.12
    for channel in range(whole.shape[0]):
        assert whole[channel].mean() == pytest.approx(raw[channel].mean(), rel=0.08)


def test_limits_are_taken_after_the_correction(flat):
    micrograph, whole = flat["uint16", 1, "divide"]
    limits = intensity_limits(micrograph, Scaling(kind="percentile", low=2, high=98))
    assert limits == tuple(np.percentile(whole, [2, 98]))


@dataclass
class Boundless:
    """A micrograph that is made up where it is read."""

    shape: tuple[int, int]
    format: str = "tiff"
    channels: int = 1
    dtype: np.dtype = field(default_factory=lambda: np.dtype("uint8"))
    lazy: bool = True
    decoded_bytes: int = 0
    parts: Parts = field(default_factory=Parts)
    pixel_size: None = None
    reads: list[Box] = field(default_factory=list)

    def read(self, box):
        self.reads.append(box)
        return np.full((1, *box.shape), 100, np.uint8)

    def close(self):
        pass


@pytest.mark.parametrize("shape", [(200_000, 150_000), (1, 300_000), (1, 1), (5000, 31)])
def test_reads_are_bounded_whatever_the_size(shape):
    pixels = Boundless(shape)
    found = estimate_flat_field(Micrograph("a.tif", pixels), "divide")
    assert len(pixels.reads) <= 32 * 32
    assert sum(box.area for box in pixels.reads) <= 16 * 1024**2
    assert all(Box.of_shape(shape).contains(box) and box.area for box in pixels.reads)
    assert (found.background == 100).all()


def test_nothing_is_divided_by_a_black_background(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((50, 50), np.uint8))
    with pytest.raises(InputError, match="flat_field to subtract"):
        open_prepared(tmp_path / "a.tif", Scaling(flat_field="divide"))
    with open_prepared(tmp_path / "a.tif", Scaling(flat_field="subtract")) as micrograph:
        assert micrograph.read(Box(0, 0, 50, 50)).max() == 0


def test_off_means_untouched(archive):
    with open_prepared(archive / "large.tif", Scaling()) as micrograph, open_micrograph(archive / "large.tif") as raw:
        assert not isinstance(micrograph, FlatMicrograph)
        np.testing.assert_array_equal(micrograph.read(Box(3, 4, 99, 88)), raw.read(Box(3, 4, 99, 88)))
    assert Scaling().model_dump_json() == '{"kind":"dtype","low":null,"high":null}'
    used = json.loads(Scaling(flat_field="divide", clahe=0.1).model_dump_json())
    assert (used["flat_field"], used["clahe"]) == ("divide", 0.1)


def test_an_older_card_loads_and_is_saved_as_it_was(checkpoint, tmp_path):
    model, card = load_checkpoint(checkpoint)
    assert (card.scaling.flat_field, card.scaling.clahe) == ("none", None)
    assert json.loads((checkpoint / "model.json").read_text())["scaling"] == {
        "kind": "dtype",
        "low": None,
        "high": None,
    }
    save_checkpoint(tmp_path / "again", model, card)
    assert (tmp_path / "again" / "model.json").read_bytes() == (checkpoint / "model.json").read_bytes()


@pytest.fixture(scope="module")
def lamps(tmp_path_factory):
    """Two shaded micrographs with masks."""
    folder = tmp_path_factory.mktemp("lamps")
    for number, name in enumerate("ab"):
        for part in ("images", "masks"):
            (folder / part).mkdir(exist_ok=True)
        image = shaded((300, 420), "uint8", number)
        tifffile.imwrite(folder / "images" / f"{name}.tif", image, tile=(64, 64))
        tifffile.imwrite(folder / "masks" / f"{name}.tif", (image > np.median(image, axis=0)).astype(np.uint8))
    return folder


@pytest.fixture(scope="module")
def flat_checkpoint(checkpoint, tmp_path_factory):
    model, card = load_checkpoint(checkpoint)
    scaling = Scaling(kind="percentile", low=1, high=99, flat_field="divide")
    folder = tmp_path_factory.mktemp("model") / "flat"
    save_checkpoint(folder, model, card.model_copy(update={"scaling": scaling}))
    return folder


def test_stored_tiles_are_corrected(lamps, tmp_path):
    scaling = Scaling(kind="percentile", low=1, high=99, flat_field="subtract")
    chosen = {"images": str(lamps / "images"), "masks": str(lamps / "masks"), "classes": ["dark", "bright"]}
    tiled = tile(TileSettings(**chosen, output=str(tmp_path), tile=96, overlap=16, workers=0, scaling=scaling))
    assert tiled.store.spec.scaling == scaling
    rows = tiled.store.table.to_pylist()
    images, _, limits = tiled.store.read(np.arange(len(rows)))
    for image, limit, row in zip(images, limits, rows, strict=True):
        with open_prepared(lamps / "images" / row["micrograph"], scaling) as micrograph:
            box = Box(row["y0"], row["x0"], row["y0"] + 96, row["x0"] + 96)
            np.testing.assert_array_equal(image, micrograph.read(box))
            assert tuple(limit) == pytest.approx(intensity_limits(micrograph, scaling))


def test_masks_are_those_of_the_corrected_whole(lamps, flat_checkpoint, tmp_path):
    """Law 1 with a background: shards, tiles, verify and evaluate all see the same corrected micrograph."""
    from microseg_ray.evaluation.job import evaluate
    from microseg_ray.runs.verify import verify

    chosen = {"archive": str(lamps / "images"), "checkpoint": str(flat_checkpoint), "output": str(tmp_path / "run")}
    result = segment(SegmentSettings(**chosen, shard=128, workers=0))
    assert (result.plan.verdict, result.ledger.failures) == ("exact", [])
    model, card = load_checkpoint(flat_checkpoint)
    predictor = Predictor(model, card, "bf16", threads=1, runtime="torch")
    run = Run.open(tmp_path / "run")
    for name in ("a.tif", "b.tif"):
        with open_prepared(lamps / "images" / name, card.scaling) as micrograph:
            limits = intensity_limits(micrograph, card.scaling)
            whole = predictor.masks(micrograph.read(Box(0, 0, 300, 420))[None], limits)[0]
        store = MaskStore.open(run.store_path(name))
        assert np.count_nonzero(np.asarray(store.mask[:]) != whole) == 0
        assert store.identity["limits"] == list(limits)
    assert verify(VerifySettings(run=str(run.folder))).problems == ()
    data = {"images": str(lamps / "images"), "masks": str(lamps / "masks"), "output": str(tmp_path / "metrics")}
    by_model = evaluate(EvaluateSettings(**data, checkpoint=str(flat_checkpoint), threads=1))
    data.pop("images")
    by_run = evaluate(EvaluateSettings(**data, predictions=str(run.folder)))
    assert by_model.document()["confusion_matrix"] == by_run.document()["confusion_matrix"]


def test_a_black_micrograph_is_quarantined(lamps, flat_checkpoint, tmp_path):
    tifffile.imwrite(tmp_path / "black.tif", np.zeros((64, 64), np.uint8))
    chosen = {"archive": str(tmp_path / "black.tif"), "checkpoint": str(flat_checkpoint)}
    result = segment(SegmentSettings(**chosen, output=str(tmp_path / "run"), workers=0))
    assert [failure.stage for failure in result.ledger.failures] == ["open"]
    assert "divided by" in result.ledger.failures[0].reason
