"""Another pixel size: a pure function of place, anti-aliased, areas in um2 unchanged; stop, rescale or ignore."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from microseg_ray.errors import InputError, RunMismatchError
from microseg_ray.geometry import Box
from microseg_ray.on_ray.actors import plan, segment
from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.verify import verify
from microseg_ray.settings import MeasureSettings, PlanSettings, Scaling, SegmentSettings, VerifySettings
from microseg_ray.sources import Micrograph, ScaleRule, open_micrograph, open_prepared
from microseg_ray.sources.choices import Parts
from microseg_ray.sources.rescaled import Rescaled


class Held:
    """Pixels in memory behind the interface of a format."""

    format, lazy, decoded_bytes, pixel_size, parts = "tiff", True, 0, None, Parts()

    def __init__(self, pixels):
        self.pixels, self.shape, self.channels, self.dtype = pixels, pixels.shape[1:], pixels.shape[0], pixels.dtype

    def read(self, box):
        return self.pixels[(..., *box.slices)]

    def close(self):
        pass


def picture(shape, dtype="uint8", seed=0, channels=1):
    generator = np.random.default_rng(seed)
    if dtype == "float32":
        return generator.random((channels, *shape), np.float32)
    return generator.integers(0, np.iinfo(dtype).max, (channels, *shape), dtype=dtype, endpoint=True)


def rescaled(pixels, shape):
    return Rescaled(Micrograph("a.tif", Held(pixels)), shape)


def oracle(line, length):
    """A row resampled, pixel by pixel, by the textbook: a triangle as wide as the larger of both pixels."""
    ratio = len(line) / length
    reach = max(1.0, ratio)
    result = []
    for place in range(length):
        centre = (place + 0.5) * ratio
        weights = [max(0.0, 1 - abs(index + 0.5 - centre) / reach) for index in range(len(line))]
        result.append(sum(weight * float(value) for weight, value in zip(weights, line, strict=True)) / sum(weights))
    return result


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 99))
def test_it_is_the_textbook_filter(length, new_length, seed):
    pixels = picture((1, length), "float32", seed)
    line = rescaled(pixels, (1, new_length)).read(Box(0, 0, 1, new_length))[0, 0]
    assert line == pytest.approx(oracle(pixels[0, 0], new_length), rel=1e-4, abs=1e-6)


@given(
    st.tuples(st.integers(1, 50), st.integers(1, 50)),
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.sampled_from(["uint8", "uint16", "uint32", "int16", "float32"]),
    st.data(),
)
def test_a_region_is_that_part_of_the_whole(shape, new_shape, dtype, data):
    """Law: any box of the rescaled micrograph has the bytes that the whole has there."""
    micrograph = rescaled(picture(shape, dtype), new_shape)
    whole = micrograph.read(Box.of_shape(new_shape))
    assert whole.dtype == dtype
    y0, x0 = (data.draw(st.integers(0, side - 1)) for side in new_shape)
    y1, x1 = (data.draw(st.integers(start, side)) for start, side in zip((y0, x0), new_shape, strict=True))
    box = Box(y0, x0, y1, x1)
    assert micrograph.read(box).tobytes() == np.ascontiguousarray(whole[(..., *box.slices)]).tobytes()


def test_bands_do_not_show(monkeypatch):
    micrograph = rescaled(picture((300, 200)), (70, 50))
    whole = micrograph.read(Box(0, 0, 70, 50))
    monkeypatch.setattr("microseg_ray.sources.rescaled._READ_PIXELS", 1000)
    assert np.array_equal(micrograph.read(Box(0, 0, 70, 50)), whole)


def test_the_same_size_changes_nothing():
    pixels = picture((31, 47), "uint16")
    assert np.array_equal(rescaled(pixels, (31, 47)).read(Box(0, 0, 31, 47)), pixels)


def test_shrinking_averages_instead_of_skipping():
    stripes = np.tile(np.array([0, 200], np.uint8), (1, 64, 32))
    small = rescaled(stripes, (16, 16)).read(Box(0, 0, 16, 16))
    assert np.abs(small[:, :, 1:-1].astype(int) - 100).max() <= 7


def test_constant_stays_constant():
    for new in ((3, 5), (200, 170)):
        assert (rescaled(np.full((1, 37, 41), 131, np.uint8), new).read(Box.of_shape(new)) == 131).all()


@given(st.floats(0.05, 20), st.floats(0.05, 20), st.floats(0.0, 0.5))
def test_the_rule(size, trained, tolerance):
    rule = ScaleRule((trained, trained), tolerance, "stop")
    assert rule.differs((size, size)) == (max(size / trained, trained / size) - 1 > tolerance)
    assert not rule.differs(None)
    assert not ScaleRule(None).differs((size, size))


def test_specimen_and_bar_do_not_run_into_each_other(tmp_path):
    image = np.full((120, 90), 50, np.uint8)
    image[100:] = 255
    tifffile.imwrite(tmp_path / "a.tif", image)
    with open_micrograph(tmp_path / "a.tif") as plain:
        from dataclasses import replace

        plain.info = replace(plain.info, info_bar_rows=20, pixel_size_um=(1.0, 1.0), pixel_size_source="option")
        micrograph = Rescaled(plain, (50, 45))
        assert (micrograph.info.shape, micrograph.info.info_bar_rows) == ((60, 45), 10)
        assert micrograph.info.pixel_size_um == (2.0, 2.0)
        assert micrograph.info.file_shape == (120, 90)
        pixels = micrograph.read(Box(0, 0, 60, 45))[0]
    assert (pixels[:50] == 50).all()
    assert (pixels[50:] == 255).all()


def test_too_coarse_is_refused(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.ome.tif",
        picture((20, 20))[0],
        metadata={"axes": "YX", "PhysicalSizeX": 10.0, "PhysicalSizeY": 10.0},
    )
    with pytest.raises(InputError, match=r"10 x 10 um .* trained at 0\.5 x 0\.5 um: too coarse"):
        open_prepared(tmp_path / "a.ome.tif", Scaling(), None, ScaleRule((0.5, 0.5), 0.1, "rescale"))


# --- in a run ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(new_checkpoint, tmp_path_factory):
    """A checkpoint that was trained at 0.5 um a pixel."""
    from microseg_ray.models.checkpoint import load_checkpoint, save_checkpoint

    model, card = load_checkpoint(new_checkpoint(tmp_path_factory.mktemp("model") / "plain"))
    folder = tmp_path_factory.mktemp("trained") / "best"
    save_checkpoint(folder, model, card.model_copy(update={"pixel_size_um": (0.5, 0.5)}))
    return folder


@pytest.fixture(scope="module")
def scaled_archive(tmp_path_factory):
    """The same field at three pixel sizes, one of which no file says, and one fine one with vendor tags and a drawn bar."""
    from PIL import Image, ImageDraw

    folder = tmp_path_factory.mktemp("scaled")
    generator = np.random.default_rng(1)
    image = np.kron(generator.random((20, 18)), np.ones((16, 16)))
    image = ((image * 0.8 + generator.random(image.shape) * 0.2) * 255).astype(np.uint8)
    size = {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm"}
    for name, um in (("same.tif", 0.52), ("fine.tif", 0.25)):
        tifffile.imwrite(
            folder / name, image, ome=True, metadata={"axes": "YX", "PhysicalSizeX": um, "PhysicalSizeY": um, **size}
        )
    tifffile.imwrite(folder / "unknown.tif", image)
    strip = Image.new("L", (image.shape[1], 40), 0)
    ImageDraw.Draw(strip).text((5, 12), "HV 5 kV  mag 1000 x  WD 5 mm  TLD", 255)
    fei = f"[Scan]\r\nPixelWidth=2.5e-07\r\nPixelHeight=2.5e-07\r\n[Image]\r\nResolutionX=288\r\nResolutionY={image.shape[0]}\r\n"
    whole = np.concatenate([image, np.asarray(strip)])
    tifffile.imwrite(folder / "vendor.tif", whole, extratags=[(34682, "s", 0, fei, True)])
    return folder


def settings(cls, archive, checkpoint, output, **options):
    chosen = {"archive": str(archive), "checkpoint": str(checkpoint), "output": str(output), "shard": 128, "workers": 0}
    return cls(**{**chosen, **options})


def test_stop_quarantines_those_alone(scaled_archive, trained, tmp_path):
    foretold = plan(settings(PlanSettings, scaled_archive, trained, tmp_path / "run"))
    assert [failure.path for failure in foretold.failures] == ["fine.tif", "vendor.tif"]
    assert not (tmp_path / "run").exists()
    result = segment(settings(SegmentSettings, scaled_archive, trained, tmp_path / "run"))
    assert [(failure.path, failure.stage) for failure in result.ledger.failures] == [
        ("fine.tif", "open"),
        ("vendor.tif", "open"),
    ]
    reason = result.ledger.failures[1].reason
    assert "its pixels are 0.25 x 0.25 um (FEI Scan.PixelWidth), the model was trained at 0.5 x 0.5 um" in reason
    assert "set on_scale_mismatch to rescale" in reason
    assert result.run.names() == ["same.tif", "unknown.tif"]
    note = MaskStore.open(result.run.store_path("unknown.tif")).note
    assert "pixel size unknown, so the scale is not checked" in note["notes"][0]
    assert foretold.notes == {note["notes"][0]: ("unknown.tif",)}


def test_ignore_takes_them_as_they_are_and_says_so(scaled_archive, trained, tmp_path):
    result = segment(settings(SegmentSettings, scaled_archive, trained, tmp_path / "run", on_scale_mismatch="ignore"))
    assert not result.ledger.failures
    store = MaskStore.open(result.run.store_path("fine.tif"))
    assert store.spec.shape == (320, 288)
    assert store.note["notes"] == ["pixel size 0.25 x 0.25 um is not the 0.5 x 0.5 um that the model was trained at"]


@pytest.fixture(scope="module")
def rescaled_run(scaled_archive, trained, tmp_path_factory):
    folder = tmp_path_factory.mktemp("rescaled") / "run"
    return segment(settings(SegmentSettings, scaled_archive, trained, folder, on_scale_mismatch="rescale"))


def test_rescale_lays_the_mask_on_the_trained_grid(rescaled_run):
    assert not rescaled_run.ledger.failures
    store = MaskStore.open(rescaled_run.run.store_path("vendor.tif"))
    mask = np.asarray(store.mask[:])
    assert mask.shape == (180, 144)
    assert (mask[160:] == 255).all()
    assert not (mask[:160] == 255).any()
    assert store.note["pixel_size_um"] == [0.5, 0.5]
    assert store.note["pixel_size_source"] == "FEI Scan.PixelWidth, rescaled"
    assert store.note["info_bar"] == {"rows": 20, "source": "FEI Image.ResolutionY"}
    assert store.note["rescaled"] == {
        "file_shape": [360, 288],
        "file_pixel_size_um": [0.25, 0.25],
        "factor": [2.0, 2.0],
    }
    fine = np.asarray(MaskStore.open(rescaled_run.run.store_path("fine.tif")).mask[:])
    assert np.array_equal(mask[:160], fine), "the bar does not show above it"
    assert len(np.unique(fine)) > 1


def test_areas_in_um2_are_those_of_the_field(rescaled_run):
    total = {}
    for row in rescaled_run.areas:
        total[row.micrograph] = total.get(row.micrograph, 0.0) + (row.area_um2 or 0.0)
    field = 320 * 288
    assert total["fine.tif"] == pytest.approx(field * 0.25**2)
    assert total["vendor.tif"] == pytest.approx(field * 0.25**2)
    assert total["same.tif"] == pytest.approx(field * 0.52**2)
    assert total["unknown.tif"] == 0


def test_ome_scale_is_that_of_the_mask(rescaled_run):
    import zarr

    group = zarr.open_group(rescaled_run.run.store_path("fine.tif"), mode="r")
    transform = group.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"][0]
    assert transform["scale"] == [0.5, 0.5]


def test_a_rescaled_run_resumes_and_verifies(rescaled_run, scaled_archive, trained):
    folder = rescaled_run.run.folder
    chosen = settings(SegmentSettings, scaled_archive, trained, folder, on_scale_mismatch="rescale")
    assert segment(chosen).ledger.computed == 0
    store = MaskStore.open(rescaled_run.run.store_path("vendor.tif"))
    before = np.asarray(store.mask[:])
    store.forget((0, 1))
    store.forget((1, 0))
    again = segment(chosen)
    assert again.ledger.computed == 2
    assert np.array_equal(np.asarray(MaskStore.open(store.path).mask[:]), before)
    checked = verify(VerifySettings(run=str(folder), shards=50))
    assert not checked.problems
    assert checked.recomputed == checked.equal > 10


def test_plan_foretells_the_rescaled_grid(scaled_archive, trained, tmp_path):
    foretold = plan(settings(PlanSettings, scaled_archive, trained, tmp_path / "run", on_scale_mismatch="rescale"))
    assert (foretold.rescaled, foretold.info_bars, foretold.failures) == (2, 1, ())
    assert foretold.pixels == 2 * 320 * 288 + 160 * 144 + 180 * 144


def test_the_policy_belongs_to_the_run(rescaled_run, scaled_archive, trained):
    with pytest.raises(RunMismatchError, match="scale: "):
        segment(settings(SegmentSettings, scaled_archive, trained, rescaled_run.run.folder))


def test_a_corrected_size_corrects_the_masks_own(rescaled_run, scaled_archive, tmp_path):
    import shutil

    shutil.copytree(rescaled_run.run.folder, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    run.recalibrate(MeasureSettings(run=str(run.folder), pixel_size_um=0.3).pixel_size_um)
    store = MaskStore.open(run.store_path("fine.tif"))
    assert store.note["pixel_size_um"] == [0.6, 0.6]
    assert store.note["rescaled"]["file_pixel_size_um"] == [0.3, 0.3]
    assert MaskStore.open(run.store_path("same.tif")).note["pixel_size_um"] == [0.3, 0.3]


def test_a_new_table_recalibrates_without_a_pixel_computed(scaled_archive, checkpoint, tmp_path):
    """A model without a trained size: the table decides um2 alone."""
    table = tmp_path / "sizes.csv"
    table.write_text("pattern,um_per_pixel\nunknown.tif,0.5\n")
    chosen = settings(
        SegmentSettings,
        scaled_archive / "unknown.tif",
        checkpoint,
        tmp_path / "run",
        source={"pixel_sizes": str(table)},
    )
    assert segment(chosen).areas[0].pixel_size_source == "table unknown.tif (line 2)"
    table.write_text("pattern,um_per_pixel\nunknown.tif,0.75\n")
    again = segment(chosen)
    assert again.ledger.computed == 0
    assert again.areas[0].pixel_size_um_y == 0.75
    assert segment(chosen).ledger.kept == ["unknown.tif"]
    table.write_text("pattern,um_per_pixel\nunknown.tif,0.75\n*,none\n")
    with pytest.raises(InputError, match=r"sizes\.csv: line 3"):
        segment(chosen)
