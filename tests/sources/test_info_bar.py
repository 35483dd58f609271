"""Info bars: drawn ones are found to the row, micrographs and simulated ones have none, and the mask ends above them."""

from __future__ import annotations

import io

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont

from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.on_ray.actors import segment
from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.settings import Scaling, SegmentSettings, SourceSettings
from microseg_ray.simulation import simulate_archive
from microseg_ray.sources import intensity_limits, open_micrograph, open_prepared
from microseg_ray.sources.specimen.flat_field import estimate_flat_field
from microseg_ray.sources.specimen.info_bar import find_info_bar

ROWS = 48


def noise(shape, seed=0, low=30, high=220):
    """Specimen: coarse grains and noise."""
    generator = np.random.default_rng(seed)
    coarse = generator.random((shape[0] // 16 + 1, shape[1] // 16 + 1))
    image = np.kron(coarse, np.ones((16, 16)))[: shape[0], : shape[1]] * 0.7 + generator.random(shape) * 0.3
    return (low + image * (high - low)).astype(np.uint8)


def bar(width, rows=ROWS, background=0, ink=255, *, line=False, cells=False):
    """A strip as microscopes draw it: text, a scale bar, perhaps a line above and cells."""
    strip = Image.new("L", (width, rows), background)
    draw = ImageDraw.Draw(strip)
    font = ImageFont.load_default(size=rows * 0.35)
    draw.text((8, rows * 0.15), "HV 20.0 kV  WD 10.1 mm  det BSE", ink, font=font)
    draw.text((8, rows * 0.55), "mag 5 000 x", ink, font=font)
    draw.line((width * 3 // 4, rows // 2, width - 20, rows // 2), ink, width=3)
    if line:
        draw.line((0, 0, width, 0), ink)
    if cells:
        for x in range(0, width, width // 5):
            draw.line((x, 0, x, rows), ink)
    return np.asarray(strip)


def with_bar(shape=(420, 512), seed=0, **options):
    return np.concatenate([noise(shape, seed), bar(shape[1], **options)])


def found(image):
    return find_info_bar(lambda box: image[None][(..., *box.slices)], image.shape)


@pytest.mark.parametrize("background", [0, 20, 255])
@pytest.mark.parametrize("options", [{}, {"line": True}, {"cells": True}, {"rows": 96}, {"rows": 30}])
def test_a_drawn_bar_is_found_to_the_row(background, options):
    image = with_bar(background=background, ink=255 if background < 128 else 0, **options)
    assert found(image) == options.get("rows", ROWS)


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_in_any_depth(dtype):
    image = with_bar().astype(dtype) * (257 if dtype == "uint16" else 1 / 255)
    assert found(image.astype(dtype)) == ROWS


def test_a_bar_of_a_jpeg_is_found_within_a_block():
    buffer = io.BytesIO()
    Image.fromarray(with_bar((424, 512))).save(buffer, format="JPEG", quality=90)
    rows = found(np.asarray(Image.open(buffer)))
    assert abs(rows - ROWS) <= 8


def varied(kind, shape=(424, 512), rows=ROWS, below=0):
    """Specimen and a bar of some kind of panel, drawn over the specimen `below` rows above the bottom."""
    image = noise((shape[0] + rows, shape[1])).astype(np.int64)
    drawn = bar(shape[1], rows).astype(np.int64)
    ramp = {
        "dark": 0,
        "gray": 110,
        "down": np.linspace(20, 80, rows).astype(int)[:, None],
        "across": np.linspace(10, 110, shape[1]).astype(int)[None],
        "light": 245,
    }[kind]
    panel = ramp * np.ones_like(drawn)
    ink = 0 if kind == "light" else 255
    strip = panel + (ink - panel) * drawn // 255
    end = len(image) - below
    image[end - rows : end] = strip
    return image.astype(np.uint8)


def changed(image, size, quality):
    """Resized, then compressed as JPEG where a quality is given."""
    result = Image.fromarray(image)
    if size != 1:
        result = result.resize((round(image.shape[1] * size), round(image.shape[0] * size)), Image.Resampling.BICUBIC)
    if quality:
        buffer = io.BytesIO()
        result.save(buffer, "JPEG", quality=quality)
        result = Image.open(buffer)
    return np.asarray(result)


@pytest.mark.parametrize("kind", ["dark", "light", "gray", "down", "across"])
@pytest.mark.parametrize("below", [0, 1, 2])
@pytest.mark.parametrize(("size", "quality"), [(1, 0), (1, 75), (1, 60), (0.5, 0), (0.5, 75), (2, 75)])
def test_a_bar_is_found_after_resizing_and_compression(kind, below, size, quality):
    rows = 60
    image = changed(varied(kind, (540, 1024), rows, below), size, quality)
    assert abs(found(image) - (rows + below) * size) <= 2


@pytest.mark.parametrize("step", [-20, 20])
def test_a_panel_of_nearly_the_intensity_of_the_specimen_has_an_edge(step):
    """Dark specimen beside bright text: the edge is a small part of the contrast."""
    generator = np.random.default_rng(0)
    image = generator.normal(40 + step, 3, (480, 512)).astype(np.uint8)
    image[-ROWS:] = np.maximum(bar(512), 40)
    assert found(image) == ROWS


def test_two_panels_are_one_bar():
    image = np.concatenate([noise((420, 512)), bar(512, 40), 255 - bar(512, 36)])
    assert found(image) == 76


def colored_bar(tmp_path, below=1, name="a.tif", **options):
    """An RGB file of a gray micrograph whose scale bar is green."""
    image = np.stack([varied("light", below=below)] * 3, axis=-1)
    image[-20:-17, 400:440] = (0, 128, 0)
    tifffile.imwrite(tmp_path / name, image, photometric="rgb", **options)
    return image


@pytest.mark.parametrize("options", [{}, {"tile": (64, 64), "compression": "deflate"}])
@pytest.mark.parametrize("setting", ["auto", 49])
def test_colours_in_the_bar_alone_make_no_coloured_micrograph(tmp_path, options, setting):
    image = colored_bar(tmp_path, **options)
    with open_prepared(tmp_path / "a.tif", Scaling(), SourceSettings(info_bar=setting)) as micrograph:
        assert (micrograph.info.channels, micrograph.info.info_bar_rows) == (1, ROWS + 1)
        pixels = micrograph.read(Box.of_shape(micrograph.info.shape))
    assert np.array_equal(pixels[0, : -ROWS - 1], image[: -ROWS - 1, :, 0])


def test_a_coloured_specimen_stays_coloured_with_and_without_a_bar(tmp_path):
    image = colored_bar(tmp_path)
    image[300:310, 5:9] = (200, 10, 10)
    image[-ROWS - 30 : -ROWS - 28, 5:9] = (200, 10, 10)
    for name, pixels in (
        ("both.png", image),
        ("below.png", np.where(np.arange(472)[:, None, None] < 320, image[..., :1], image)),
    ):
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name)
        with open_micrograph(tmp_path / name) as micrograph:
            assert micrograph.info.channels == 3, name
    with open_micrograph(tmp_path / "a.tif", SourceSettings(info_bar="none")) as micrograph:
        assert micrograph.info.channels == 3


def test_a_stated_bar_is_compared_with_the_pixels(tmp_path):
    """Tags outlive an editor: the pixels count where they show another bar, and a note says so."""
    for stated, rows, source, notes in (
        (ROWS + 1, ROWS + 1, "TESCAN ImageStripSize", 0),
        (2 * ROWS, ROWS, "pixels", 1),
        (0, ROWS, "pixels", 1),
    ):
        text = f"[MAIN]\nImageStripSize={stated}\nPixelSizeX=2e-08\nPixelSizeY=2e-08\n".encode()
        tifffile.imwrite(tmp_path / "a.tif", with_bar(), extratags=[(50431, 1, len(text), text, True)])
        with open_prepared(tmp_path / "a.tif", Scaling()) as micrograph:
            info = micrograph.info
        assert (info.info_bar_rows, info.info_bar_source, len(info.pixel_size_notes)) == (rows, source, notes)
    text = b"[MAIN]\nImageStripSize=40\nPixelSizeX=2e-08\nPixelSizeY=2e-08\n"
    tifffile.imwrite(tmp_path / "b.tif", noise((400, 300)), extratags=[(50431, 1, len(text), text, True)])
    with open_prepared(tmp_path / "b.tif", Scaling()) as micrograph:
        assert micrograph.info.info_bar_rows == 40
        assert "the pixels show none" in micrograph.info.pixel_size_notes[0]


def test_black_specimen_above_a_black_bar_is_found_by_the_line_between():
    image = with_bar(line=True)
    image[300:420, :400] = 0
    assert found(image) == ROWS


@pytest.mark.parametrize("seed", range(4))
def test_specimen_alone_has_none(seed):
    assert found(noise((420, 512), seed)) == 0


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("one value", np.full((300, 300), 7, np.uint8)),
        ("black below", np.concatenate([noise((300, 300)), np.zeros((40, 300), np.uint8)])),
        ("two flat phases", np.kron(np.array([[10], [200]], np.uint8), np.ones((150, 300), np.uint8))),
        ("half of it", np.concatenate([noise((100, 300)), bar(300, 100)])),
        ("narrow", with_bar((420, 512))[:, :40]),
        ("a few rows", with_bar((420, 512))[-30:]),
    ],
)
def test_what_only_resembles_a_bar_is_none(name, image):
    assert found(image) == 0, name


@given(st.integers(0, 2**32 - 1), st.floats(0.0, 0.9), st.integers(80, 200))
def test_saturated_noise_is_never_a_bar(seed, black, side):
    """Any share of saturated pixels, as in dark images, is no panel: it has no sharp upper end."""
    generator = np.random.default_rng(seed)
    image = np.where(generator.random((side, side)) < black, 0, generator.integers(1, 255, (side, side))).astype(
        np.uint8
    )
    assert found(image) == 0


def test_only_the_bottom_is_read():
    image, boxes = noise((4000, 300)), []

    def read(box):
        boxes.append(box)
        return image[None][(..., *box.slices)]

    assert find_info_bar(read, image.shape) == 0
    assert min(box.y0 for box in boxes) >= 4000 - 64


@pytest.mark.parametrize("step", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_no_real_micrograph_has_one(real_data, step):
    """None of the sets at hand comes with a bar: every twelfth image of each, and all of them."""
    wrong, seen = [], 0
    patterns = ("mudrock/images/*", "mudrock/mosaics/*_images.png", "superalloy/t*/*.tif", "superalloy/val/*.tif")
    patterns += ("coating/*/*.tif", "fracture/*.jpg", "meltpool/tiles/*.png", "ccd/*/train/*.png", "grains/*/*/*.png")
    for path in (path for pattern in patterns for path in sorted(real_data.glob(pattern))[::step]):
        seen += 1
        with open_prepared(path, Scaling()) as micrograph:
            if micrograph.info.info_bar_rows:
                wrong.append((str(path), micrograph.info.info_bar_rows))
    assert not wrong
    assert seen > 300 // step


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.slow)])
def test_a_bar_below_a_real_micrograph_is_found(real_data, step):
    for pattern in ("coating/train/*.tif", "fracture/*.jpg", "mudrock/mosaics/*_images.png"):
        for path in sorted(real_data.glob(pattern))[::step]:
            with open_micrograph(path) as micrograph:
                image = micrograph.read(Box.of_shape(micrograph.info.shape))[0]
            assert found(np.concatenate([image, bar(image.shape[1], 64)])) == 64, path.name


def test_no_simulated_micrograph_has_one(tmp_path):
    simulate_archive(tmp_path, 2, (300, 400), 3)
    images = sorted((tmp_path / "images").glob("*"))
    assert images
    for path in images:
        with open_prepared(path, Scaling()) as micrograph:
            assert micrograph.info.info_bar_rows == 0


def test_the_user_has_the_last_word(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, with_bar())
    for chosen, rows, source in (("auto", ROWS, "pixels"), ("none", 0, "option info_bar"), (7, 7, "option info_bar")):
        with open_prepared(path, Scaling(), SourceSettings(info_bar=chosen)) as micrograph:
            assert (micrograph.info.info_bar_rows, micrograph.info.info_bar_source) == (rows, source)
            assert micrograph.info.specimen == Box(0, 0, 468 - rows, 512)
    with pytest.raises(InputError, match=r"source\.info_bar is 468 px, but the micrograph has 468 rows"):
        open_prepared(path, Scaling(), SourceSettings(info_bar=468))


def test_intensities_of_the_bar_count_for_nothing(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", with_bar())
    tifffile.imwrite(tmp_path / "cut.tif", with_bar()[:-ROWS])
    scaling = Scaling(kind="percentile", low=0, high=100, flat_field="divide")
    results = []
    for name in ("a.tif", "cut.tif"):
        with open_prepared(tmp_path / name, Scaling()) as micrograph:
            field = estimate_flat_field(micrograph, "divide")
        with open_prepared(tmp_path / name, scaling) as micrograph:
            results.append((intensity_limits(micrograph, scaling), micrograph.read(Box(0, 0, 420, 512)).tobytes()))
        results[-1] += (field.background.tobytes(),)
    assert results[0] == results[1]


def settings(archive, checkpoint, output, **options):
    chosen = {"archive": str(archive), "checkpoint": str(checkpoint), "output": str(output), "shard": 256, "workers": 0}
    return SegmentSettings(**{**chosen, **options})


@pytest.mark.parametrize(
    "options", [{}, {"blend": "hann", "tile": 128, "extra": "probabilities"}, {"extra": "margin", "rows": 200}]
)
def test_the_mask_is_that_of_the_cropped_micrograph(checkpoint, tmp_path, options):
    """Cropping semantics, shards that lie in the bar altogether included: 255 below, no count, the same bytes above."""
    rows = options.pop("rows", ROWS)
    image = np.concatenate([noise((630, 300)), bar(300, rows)])
    for name, pixels in (("whole", image), ("cut", image[:630])):
        (tmp_path / name).mkdir()
        tifffile.imwrite(tmp_path / name / "a.tif", pixels)
    runs = {
        name: segment(settings(tmp_path / name, checkpoint, tmp_path / f"run_{name}", **options))
        for name in ("whole", "cut")
    }
    whole, cut = (MaskStore.open(runs[name].run.store_path("a.tif")) for name in ("whole", "cut"))
    mask = np.asarray(whole.mask[:])
    assert mask.shape == image.shape
    assert np.array_equal(mask[:630], np.asarray(cut.mask[:]))
    assert (mask[630:] == 255).all()
    assert whole.counts.sum(axis=(0, 1)).tolist() == cut.counts.sum(axis=(0, 1)).tolist()
    assert whole.note["info_bar"] == {"rows": rows, "source": "pixels"}
    assert [row.pixel_count for row in runs["whole"].areas] == [row.pixel_count for row in runs["cut"].areas]
    assert {row.measured_pixel_count for row in runs["whole"].areas} == {630 * 300}
    if "extra" in options:
        below = np.asarray(whole._group[options["extra"]][..., 630:, :])
        assert np.isnan(below).all() if below.dtype.kind == "f" else (below == 255).all()
    again = segment(settings(tmp_path / "whole", checkpoint, tmp_path / "run_whole", **options))
    assert again.ledger.computed == 0


def test_another_choice_of_the_bar_is_another_run(checkpoint, tmp_path):
    from microseg_ray.errors import RunMismatchError

    tifffile.imwrite(tmp_path / "a.tif", with_bar((200, 200)))
    segment(settings(tmp_path / "a.tif", checkpoint, tmp_path / "run"))
    with pytest.raises(RunMismatchError, match=r"source: .*'info_bar': 'auto'.*there"):
        segment(settings(tmp_path / "a.tif", checkpoint, tmp_path / "run", source={"info_bar": "none"}))
    assert Run.open(tmp_path / "run").measured("a.tif").counts.sum() == 200 * 200
