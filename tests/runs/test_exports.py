"""Exports of a run: each format is read back by its own library and compared with the mask, pixel by pixel."""

from __future__ import annotations

import csv
import json
import re
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

import numpy as np
import pyarrow.parquet as pq
import pypdfium2
import pytest
import shapely
import tifffile
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from scipy import ndimage

from microseg_ray.annotations.readers.coco import read_coco
from microseg_ray.annotations.readers.cvat import read_cvat
from microseg_ray.annotations.readers.geojson import read_geojson
from microseg_ray.annotations.regions import ReadOptions
from microseg_ray.figures.pictures import class_palette
from microseg_ray.geometry import Box
from microseg_ray.runs.exports import drawings
from microseg_ray.runs.exports.job import export_run
from microseg_ray.runs.folder import Run
from microseg_ray.settings import ClassSpec, ExportRunSettings, settings_from
from microseg_ray.statistics.objects.regions import object_windows
from tests.finished_runs import finished_run

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = (ClassSpec(name="matrix"), ClassSpec(name='<grain> & "large"'), ClassSpec(name="pore", color="#12ab34"))
SHAPES = {"a.tif": (90, 130), "deep/b <i>\n.tif": (64, 64), "c\udcff.tif": (700, 1100)}
SIZES = {"a.tif": (0.5, 0.5), "deep/b <i>\n.tif": None, "c\udcff.tif": (0.4, 0.2)}
SHOWN = {"a.tif": "a.tif", "deep/b <i>\n.tif": "deep/b <i>\\n.tif", "c\udcff.tif": "c\\xff.tif"}
NAMES = tuple(SHAPES)
EVERY = "tiff,png,overlay,pdf,geojson,coco,cvat,csv,parquet"


def mask_of(name: str) -> np.ndarray:
    sigma = 2 if SHAPES[name][0] < 100 else 8
    field = ndimage.gaussian_filter(np.random.default_rng(len(name)).standard_normal(SHAPES[name]), sigma)
    mask = np.digitize(field, np.quantile(field, (0.6, 0.98))).astype(np.uint8)
    mask[-20:] = 255
    return mask


def run_at(tmp_path: Path, names=tuple(SHAPES), unfinished=()) -> Run:
    micrographs = {name: (mask_of(name), SIZES[name]) for name in names}
    return finished_run(tmp_path, CLASSES, micrographs, 512, unfinished)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A finished run, as `segment` leaves it, made without a model."""
    made = run_at(tmp_path)
    made.write_tables(made.names(), [])
    return made


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Every format of a finished run; read only."""
    folder = tmp_path_factory.mktemp("exported")
    made = run_at(folder)
    made.write_tables(made.names(), [])
    settings = settings_from(ExportRunSettings, {"run": str(made.folder), "output": str(folder / "o"), "format": EVERY})
    done = export_run(settings)
    assert not done.failures
    assert str(done.accounts[0]) == "files: 3 seen = 3 used + 0 set aside + 0 not taken"
    return folder / "o"


def painted(drawing, shape):
    """The mask that the regions of a drawing make, and how often each pixel was painted."""
    mask, times = np.full(shape, 255, np.uint8), np.zeros(shape, np.uint8)
    for region in drawing.regions:
        box = region.shape.bounds().intersection(Box.of_shape(shape))
        inside = region.shape.fill(box)
        times[box.slices] += inside
        index = next(index for index, spec in enumerate(CLASSES) if spec.name == region.value)
        mask[box.slices][inside] = index
    return mask, times


def test_bigtiff(exported):
    for name, size in SIZES.items():
        with tifffile.TiffFile(exported / f"tiff/{name}.ome.tif") as file:
            assert file.is_bigtiff
            assert file.is_ome
            page = file.pages[0]
            assert page.is_tiled
            np.testing.assert_array_equal(file.asarray(), mask_of(name))
            np.testing.assert_array_equal(page.colormap.T // 257, class_palette(CLASSES))
            levels = file.series[0].levels
            if name.startswith("c"):
                assert [level.shape for level in levels] == [(700, 1100), (350, 550), (175, 275)]
            pixels = ET.fromstring(file.ome_metadata).find(".//{*}Pixels")
            assert ET.fromstring(file.ome_metadata).find(".//{*}Image").get("Name") == SHOWN[name]
            if size is None:
                assert pixels.get("PhysicalSizeX") is None
                continue
            assert (float(pixels.get("PhysicalSizeY")), float(pixels.get("PhysicalSizeX"))) == size
            assert pixels.get("PhysicalSizeXUnit") == "µm"
            assert page.get_resolution(unit=5) == pytest.approx((1 / size[1], 1 / size[0]), rel=1e-6)


def test_png(exported):
    for name, size in SIZES.items():
        with Image.open(exported / f"png/{name}.png") as image:
            assert image.mode == "P"
            np.testing.assert_array_equal(np.asarray(image), mask_of(name))
            assert image.getpalette()[:9] == class_palette(CLASSES)[:3].ravel().tolist()
            dpi = image.info.get("dpi")
            assert dpi is None if size is None else dpi == pytest.approx((25400 / size[1], 25400 / size[0]), rel=1e-3)


def test_overlays(exported):
    for name, shape in SHAPES.items():
        with Image.open(exported / f"overlay/{name}.png") as image:
            assert image.width == shape[1] + 16
            assert image.height > shape[0]


def bounds_in(page, kind, within=None):
    """(left, bottom, right, top) in points of the objects of a kind on a page of a PDF, inside others."""
    found = [each.get_bounds() for each in page.get_objects(filter=[kind])]
    left, bottom, right, top = within or (0, 0, *page.get_size())
    return [
        each
        for each in found
        if within is None or (left < each[0] < each[2] < right and bottom < each[1] < each[3] < top)
    ]


def test_pages_are_read_by_pdfium(exported):
    """One page with the picture in its true shape, its colours, a scale bar of the stated length, and the legend."""
    for name, size in SIZES.items():
        (height, width), (y, x) = SHAPES[name], size or (1, 1)
        document = pypdfium2.PdfDocument(exported / f"pdf/{name}.pdf")
        assert len(document) == 1
        page = document[0]
        said = page.get_textpage().get_text_range()
        for part in (SHOWN[name], *(each.name for each in CLASSES), "not measured"):
            assert part in said
        (picture,) = page.get_objects(filter=[pypdfium2.raw.FPDF_PAGEOBJ_IMAGE])
        left, bottom, right, top = box = picture.get_bounds()
        assert (top - bottom) / (right - left) == pytest.approx(height * y / (width * x), rel=0.01)
        shown = np.asarray(picture.get_bitmap().to_pil().convert("RGB"))
        rows, columns = (
            ((np.arange(side) + 0.5) / side * shown.shape[axis]).astype(int)
            for axis, side in enumerate((height, width))
        )
        with Image.open(exported / f"overlay/{name}.png") as image:
            overlay = np.asarray(image.convert("RGB"))
        half = shown[rows[: height // 2]][:, columns]
        # Under the title of the other picture, whose scale bar covers part of the lower half.
        found = sliding_window_view(overlay[:, 8 : 8 + width], height // 2, axis=0)[: -height // 2]
        same = max((each.transpose(2, 0, 1) == half).all(axis=-1).mean() for each in found)
        assert same > 0.99
        bars = bounds_in(page, pypdfium2.raw.FPDF_PAGEOBJ_PATH, box)
        if size is None:
            assert not bars
            continue
        stated = re.search(r"([\d.]+) (nm|µm|mm)", said)
        length = float(stated[1]) * {"nm": 1e-3, "µm": 1, "mm": 1e3}[stated[2]]
        widest = max(each[2] - each[0] for each in bars)
        assert widest / (right - left) == pytest.approx(length / (width * x), rel=0.05)


def test_geojson_is_read_by_shapely_and_as_annotations(exported):
    for name, shape in SHAPES.items():
        path = exported / f"geojson/{name}.geojson"
        document = json.loads(path.read_text("utf-8"))
        mask = mask_of(name)
        found = shapely.from_geojson(path.read_text("utf-8"))
        assert shapely.is_valid(found.geoms).all()
        for index, spec in enumerate(CLASSES):
            own = [
                shapely.geometry.shape(feature["geometry"])
                for feature in document["features"]
                if feature["properties"]["classification"]["name"] == spec.name
            ]
            assert sum(part.area for part in own) == np.count_nonzero(mask == index)
        drawn, times = painted(read_geojson(path, ReadOptions())[0], shape)
        np.testing.assert_array_equal(drawn, mask)
        assert times.max() == 1
        colors = {each["properties"]["classification"]["name"]: each["properties"]["classification"]["color"]
                  for each in document["features"]}  # fmt: skip
        assert colors["pore"] == [0x12, 0xAB, 0x34]
        numbers = [each["properties"]["measurements"]["object"] for each in document["features"]]
        labels = [ndimage.label(mask == index, np.ones((3, 3)))[1] for index in range(3)]
        assert sorted(numbers) == list(range(1, sum(labels) + 1))
        assert len({each["id"] for each in document["features"]}) == len(numbers)


# pycocotools has not caught up with numpy 2.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_is_read_by_pycocotools_and_as_annotations(exported, capsys):
    coco = COCO(exported / "coco.json")
    assert [coco.cats[index + 1]["name"] for index in range(3)] == [spec.name for spec in CLASSES]
    drawn = {drawing.image: drawing for drawing in read_coco(exported / "coco.json", ReadOptions())}
    for image in coco.imgs.values():
        name = next(name for name, shown in SHOWN.items() if shown == image["file_name"])
        mask = np.full(SHAPES[name], 255, np.uint8)
        for each in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            own = coco.annToMask(each).astype(bool)
            assert (mask[own] == 255).all()
            assert each["area"] == own.sum()
            assert each["bbox"] == coco_mask.toBbox(coco.annToRLE(each)).tolist()
            mask[own] = each["category_id"] - 1
        np.testing.assert_array_equal(mask, mask_of(name))
        np.testing.assert_array_equal(painted(drawn[image["file_name"]], SHAPES[name])[0], mask)
    assert len(coco.imgs) == 3


def test_cvat_is_read_as_annotations(exported):
    drawn = {drawing.image: drawing for drawing in read_cvat(exported / "cvat.xml", ReadOptions())}
    assert set(drawn) == set(SHOWN.values())
    for name, shape in SHAPES.items():
        mask, times = painted(drawn[SHOWN[name]], shape)
        np.testing.assert_array_equal(mask, mask_of(name))
        assert times.max() == 1
    labels = ET.parse(exported / "cvat.xml").getroot().find("meta/task/labels")
    assert [label.find("name").text for label in labels] == [spec.name for spec in CLASSES]
    assert labels[2].find("color").text == "#12ab34"


def test_areas_are_those_of_the_run(exported):
    run = Run.open(exported.parent / "run")
    assert pq.read_table(exported / "areas.parquet").to_pylist() == run.areas()
    assert (exported / "areas.csv").read_bytes() == (run.folder / "areas.csv").read_bytes()
    with (exported / "classes.csv").open(newline="", encoding="utf-8") as file:
        assert [row["class"] for row in csv.DictReader(file)] == [spec.name for spec in CLASSES]


def test_again_the_same_bytes_and_what_is_stale_goes_and_what_is_not_ours_stays(tmp_path, microseg, tree_of):
    run, exported = run_at(tmp_path, NAMES[:2]), tmp_path / "o"
    assert microseg("export-run", "--run", run.folder, "--output", exported, "--format", EVERY).code == 0
    before = tree_of(exported)
    (exported / "tiff/mine.txt").write_text("mine")
    assert microseg("export-run", "--run", run.folder, "--output", exported, "--format", EVERY).code == 0
    (exported / "tiff/mine.txt").unlink()
    assert tree_of(exported) == before
    # One micrograph less in the run; other formats are left as they are.
    for path in sorted(run.store_path("a.tif").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    run.store_path("a.tif").rmdir()
    # It is set aside, because this run never came to its end.
    assert microseg("export-run", "--run", run.folder, "--output", exported, "--format", "tiff").code == 3
    assert not (exported / "tiff/a.tif.ome.tif").exists()
    assert (exported / "png/a.tif.png").exists()


def test_a_foreign_file_is_not_replaced_and_another_run_not_mixed(exported, tmp_path, microseg):
    run = Run.open(exported.parent / "run")
    (tmp_path / "p/tiff").mkdir(parents=True)
    (tmp_path / "p/tiff/a.tif.ome.tif").write_text("mine")
    ran = microseg("export-run", "--run", run.folder, "--output", tmp_path / "p")
    assert ran.code == 1
    assert "not known as an output of the job export-run" in ran.err
    assert (tmp_path / "p/tiff/a.tif.ome.tif").read_text() == "mine"
    other = run_at(tmp_path / "other", ["a.tif"])
    other.write_tables(other.names(), [])
    ran = microseg("export-run", "--run", other.folder, "--output", exported)
    assert (ran.code, "another run" in ran.err) == (1, True)
    ran = microseg("export-run", "--run", run.folder, "--output", run.folder / "masks/o")
    assert "lies in the run's masks" in ran.err
    ran = microseg("export-run", "--run", run.folder, "--output", tmp_path / "q", "--classes", '["hole"]')
    assert ran.code == 2
    assert "'hole' is no class of this run" in ran.err
    ran = microseg("export-run", "--run", run.folder, "--output", tmp_path / "q", "--format", "bmp")
    assert ran.code == 2


def test_half_a_run_a_vanished_micrograph_and_a_large_png(tmp_path, microseg):
    run = run_at(tmp_path, unfinished=["deep/b <i>\n.tif"])
    (tmp_path / "archive/later.tif").write_bytes(b"not begun")
    (tmp_path / "archive/a.tif").unlink()
    output = tmp_path / "o"
    ran = microseg("export-run", "--run", run.folder, "--output", output, "--format", EVERY, "--png_pixels", 90 * 130)
    assert ran.code == 3
    assert "files: 4 seen = 2 used + 2 set aside + 0 not taken" in ran.out
    with (output / "failures.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        failures = {(row["path"], row["stage"]): row["reason"] for row in csv.DictReader(file)}
    assert set(failures) == {
        ("a.tif", "export overlay"), ("a.tif", "export pdf"), ("c\udcff.tif", "export png"),
        ("deep/b <i>\n.tif", "export"), ("later.tif", "export"),
    }  # fmt: skip
    assert "no such file" in failures["a.tif", "export overlay"].lower()
    assert "700 x 1100 px are more than" in failures["c\udcff.tif", "export png"]
    assert "run segment there again" in failures["later.tif", "export"]
    assert (output / "tiff/a.tif.ome.tif").exists()
    assert not (output / "overlay/a.tif.png").exists()
    assert len(json.loads((output / "coco.json").read_text("utf-8"))["images"]) == 2
    assert pq.read_table(output / "areas.parquet").num_rows == 6


def test_a_damaged_shard_leaves_nothing_of_its_micrograph_in_a_file_of_all(run, tmp_path, microseg, monkeypatch):
    genuine = object_windows

    def torn(shape, *rest):
        for window in genuine(shape, *rest):
            yield window
            if shape == SHAPES["c\udcff.tif"]:
                raise ValueError("a checksum")

    monkeypatch.setattr(drawings, "object_windows", torn)
    ran = microseg("export-run", "--run", run.folder, "--output", tmp_path / "o", "--format", "coco,cvat,geojson")
    assert ran.code == 3
    assert "files: 3 seen = 2 used + 1 set aside + 0 not taken" in ran.out
    coco = json.loads((tmp_path / "o/coco.json").read_text("utf-8"))
    assert {each["image_id"] for each in coco["annotations"]} == {each["id"] for each in coco["images"]} == {1, 2}
    assert [each["id"] for each in coco["annotations"]] == list(range(1, len(coco["annotations"]) + 1))
    assert len(read_cvat(tmp_path / "o/cvat.xml", ReadOptions())) == 2
    assert not list((tmp_path / "o/geojson").glob("c*"))


def test_objects_are_chosen_as_in_measure(run, tmp_path, microseg):
    chosen = "--classes", '["pore"]', "--min_pixels", 9, "--connectivity", 4, "--qupath_type", "detection"
    ran = microseg("export-run", "--run", run.folder, "--output", tmp_path / "o", "--format", "geojson", *chosen)
    assert ran.code == 0
    features = json.loads((tmp_path / "o/geojson/a.tif.geojson").read_text("utf-8"))["features"]
    labels, count = ndimage.label(mask_of("a.tif") == 2)
    sizes = np.bincount(labels.ravel())[1:]
    assert len(features) == np.count_nonzero(sizes >= 9) < count
    assert {each["properties"]["objectType"] for each in features} == {"detection"}
    assert "smaller than min_pixels" in ran.out


def test_large_objects_are_cut_and_the_parts_are_the_object(run, tmp_path, microseg, monkeypatch):
    monkeypatch.setattr(drawings, "object_windows", lambda *given: object_windows(*given, largest=40))
    ran = microseg("export-run", "--run", run.folder, "--output", tmp_path / "o", "--format", "geojson,cvat,coco")
    assert ran.code == 0
    for name, shape in SHAPES.items():
        drawing = read_geojson(tmp_path / f"o/geojson/{name}.geojson", ReadOptions())[0]
        np.testing.assert_array_equal(painted(drawing, shape)[0], mask_of(name))
    parts = [each for each in json.loads((tmp_path / "o/geojson/a.tif.geojson").read_text("utf-8"))["features"]
             if "part" in each["properties"]["measurements"]]  # fmt: skip
    assert parts[0]["properties"]["name"] == "matrix 1, part 1"
