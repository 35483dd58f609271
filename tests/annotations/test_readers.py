"""Each annotation format, written as its own tool writes it, read into the regions that were drawn."""

from __future__ import annotations

import base64
import io
import json
import math
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from skimage.draw import polygon as skimage_polygon

from microseg_ray.annotations import READERS, ReadOptions, by_color, by_threshold, detect_format, rasterise
from microseg_ray.annotations.readers.coco import CocoPolygons
from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.settings.annotate import ThresholdRule

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


from tests.annotations.made_files import SHAPE, TRIANGLE, area, via_entry, write_via


def labelme(shapes: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"version": "5.4.1", "flags": {}, "shapes": shapes, "imagePath": "../a.png", "imageData": None, **more}


def test_labelme(tmp_path: Path) -> None:
    bits = np.zeros((4, 6), bool)
    bits[1:3, 2:] = True
    png = io.BytesIO()
    Image.fromarray(bits.astype(np.uint8)).save(png, format="PNG")
    shapes = [
        {"label": "p", "points": TRIANGLE, "shape_type": "polygon", "group_id": 7},
        {"label": "p", "points": [[13, 11], [3, 4]], "shape_type": "rectangle"},
        {"label": "p", "points": [[3, 4], [13, 4], [13, 11], [3, 11]], "shape_type": "rectangle"},
        {"label": "p", "points": [[25, 20], [25, 26]], "shape_type": "circle"},
        {"label": "p", "points": [[5, 20], [45, 20]], "shape_type": "line"},
        {"label": "p", "points": [[5, 20], [45, 20], [45, 30]], "shape_type": "linestrip"},
        {
            "label": "p",
            "points": [[10, 20], [15, 23]],
            "shape_type": "mask",
            "mask": base64.b64encode(png.getvalue()).decode(),
        },
        {"label": "p", "points": [[1, 1]], "shape_type": "point"},
        {"label": "p", "points": [[1, 1]], "shape_type": "mask", "mask": "no"},
        {"label": "p", "points": [[10, 20], [15, 23]], "shape_type": "mask", "mask": "bm8="},
    ]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(labelme(shapes, imageHeight=40, imageWidth=50)), encoding="utf-8")
    drawing = READERS["labelme"](path, ReadOptions())[0]
    x, y = np.array(TRIANGLE).T
    expected = [len(skimage_polygon(y, x)[0]), 70, 70, 109, 41, 51, 8]
    assert [area(region) for region in drawing.regions] == expected
    assert drawing.regions[6].shape.fill(Box(20, 10, 24, 16)).tolist() == bits.tolist()
    assert (drawing.image, drawing.size, drawing.ignored) == ("a", (40, 50), {"point": 1})
    assert [where for where, _ in drawing.skipped] == ["a.json: shape 9", "a.json: shape 10"]
    assert READERS["labelme"](path, ReadOptions("group_id"))[0].regions[0].value == "7"


def coco(annotations: list[dict[str, Any]], name: str = "a.png") -> dict[str, Any]:
    return {
        "images": [{"id": 3, "file_name": name, "height": SHAPE[0], "width": SHAPE[1]}],
        "categories": [{"id": 0, "name": "pore"}, {"id": 9, "name": "crack"}],
        "annotations": [{"id": place, "image_id": 3, **one} for place, one in enumerate(annotations)],
    }


def test_coco(tmp_path: Path) -> None:
    from pycocotools import mask as tools

    plane = np.zeros(SHAPE, np.uint8)
    plane[10:20, 5:9] = 1
    compressed = tools.encode(np.asfortranarray(plane))
    plain = [5 * 40 + 10, *([10, 30] * 3), 10, 40 * 50 - 8 * 40 - 20]
    box = [1, 1, 10, 1, 10, 8, 1, 8]
    annotations = [
        {"category_id": 0, "segmentation": [box], "attributes": {"kind": "x"}},
        {"category_id": 9, "segmentation": [box, [20, 20, 24, 20, 24, 24, 20, 24]]},
        {
            "category_id": 9,
            "segmentation": {"size": list(SHAPE), "counts": compressed["counts"].decode()},
            "iscrowd": 1,
        },
        {"category_id": 9, "segmentation": {"size": list(SHAPE), "counts": plain}},
        {"category_id": 5, "segmentation": [box]},
        {"category_id": 9, "segmentation": [[1, 1, 2, 2]]},
        {"category_id": 9, "segmentation": [[1, 1, 2, 2, 3]]},
        {"category_id": 9, "segmentation": [[1, 1, 2, math.nan, 3, 1]]},
        {"category_id": 9, "segmentation": [[1, 1, 2, 1e6, 3, 1]]},
        {"category_id": 9, "segmentation": {"size": [9, 9], "counts": plain}},
        {"category_id": 9, "segmentation": {"size": list(SHAPE), "counts": plain[:-1]}},
        {"category_id": 9, "segmentation": {"size": list(SHAPE), "counts": "ooooooooo0"}},
        {"category_id": 9, "bbox": [1, 1, 3, 3]},
    ]
    path = tmp_path / "coco.json"
    path.write_text(json.dumps(coco(annotations)), encoding="utf-8")
    drawing = READERS["coco"](path, ReadOptions())[0]
    assert [(region.value, area(region)) for region in drawing.regions] == [
        ("pore", 63),
        ("crack", 63 + 16),
        ("crack", 40),
        ("crack", 40),
        ("category 5", 63),
    ]
    assert [where.rsplit(".", 1)[1] for where, _ in drawing.skipped] == [str(number) for number in range(5, 13)]
    assert READERS["coco"](path, ReadOptions("kind"))[0].regions[0].value == "x"


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("seed", range(20))
def test_a_coco_polygon_in_its_own_frame_is_what_pycocotools_draws_in_the_image(seed: int) -> None:
    from pycocotools import mask as tools

    generator = np.random.default_rng(seed)
    rings = tuple(generator.uniform(-8, 60, (generator.integers(3, 9), 2)).round(2) for _ in range(2))
    expected = tools.decode(tools.merge(tools.frPyObjects([ring.ravel().tolist() for ring in rings], *SHAPE)))
    polygons = CocoPolygons(rings, SHAPE)
    assert (polygons.fill(Box.of_shape(SHAPE)) == (expected > 0)).all()
    assert (polygons.fill(Box(7, 11, 30, 44)) == (expected[7:30, 11:44] > 0)).all()


def test_cvat(tmp_path: Path) -> None:
    path = tmp_path / "annotations.xml"
    shapes = """
      <box label="pore" xtl="3.0" ytl="4.0" xbr="13.0" ybr="11.0" z_order="1"><attribute name="by">me</attribute></box>
      <box label="pore" xtl="5" ytl="5" xbr="25" ybr="9" rotation="90" z_order="0"/>
      <polygon label="silt" points="10.0,10.0;20.0,10.0;20.0,30.0;10.0,30.0" z_order="0"/>
      <ellipse label="silt" cx="25" cy="20" rx="10" ry="4" rotation="45"/>
      <polyline label="silt" points="5.5,20.5;45.5,20.5"/>
      <mask label="silt" rle="1, 2, 1, 2" left="7" top="8" width="3" height="2"/>
      <mask label="silt" rle="1, 2" left="7" top="8" width="3" height="2"/>
      <points label="silt" points="1,1"/>
      <cuboid label="silt"/>
      <polygon label="silt" points="1,1;2,2"/>
    """
    text = f'<annotations><version>1.1</version><image id="0" name="a.png" width="50" height="40">{shapes}</image></annotations>'
    path.write_text(text, encoding="utf-8")
    drawing = READERS["cvat"](path, ReadOptions())[0]
    assert drawing.size == SHAPE
    # In the order of z_order, then of the file.
    assert [region.where.rsplit(": ", 1)[1] for region in drawing.regions] == [
        "box 2", "polygon 3", "ellipse 4", "polyline 5", "mask 6", "box 1",
    ]  # fmt: skip
    turned, upright, ellipse, polyline, mask, box = drawing.regions
    assert [area(region) for region in (box, turned, upright, polyline, mask)] == [70, 68, 200, 41, 4]
    assert rasterise([turned], SHAPE, {"pore": 1})[0:17, 13:17].all()
    drawn = rasterise([ellipse], SHAPE, {"silt": 1})
    assert (drawn[25, 30], drawn[15, 30]) == (1, 0)
    assert mask.shape.fill(Box(8, 7, 10, 10)).tolist() == [[False, True, True], [False, True, True]]
    assert drawing.ignored == {"point": 1, "cuboid": 1}
    assert [where.rsplit(": ", 1)[1] for where, _ in drawing.skipped] == ["mask 7", "polygon 10"]
    assert READERS["cvat"](path, ReadOptions("by"))[0].regions[-1].value == "me"


def feature(geometry: dict[str, Any] | None, properties: dict[str, Any] | None) -> dict[str, Any]:
    return {"type": "Feature", "id": "x", "geometry": geometry, "properties": properties}


def square(start: float, end: float) -> list[list[float]]:
    return [[start, start], [end, start], [end, end], [start, end], [start, start]]


@pytest.mark.parametrize("wrap", [list, lambda features: {"type": "FeatureCollection", "features": features}])
def test_geojson_of_qupath(wrap: Callable[[list[Any]], Any], tmp_path: Path) -> None:
    pore = {"objectType": "annotation", "classification": {"name": "pore", "color": [200, 0, 0]}}
    features = [
        feature({"type": "Polygon", "coordinates": [square(2, 22), square(5, 10)]}, pore),
        feature({"type": "MultiPolygon", "coordinates": [[square(2, 12)], [square(10, 20)]]}, {"name": "both"}),
        feature({"type": "LineString", "coordinates": [[5.5, 20.5], [45.5, 20.5]]}, {"classification": "crack"}),
        feature({"type": "Point", "coordinates": [1, 2]}, pore),
        feature({"type": "Polygon", "coordinates": [[[1, 1], [2, 2]]]}, pore),
        feature({"type": "Polygon", "coordinates": [[*square(1, 5), [math.nan, 1.0]]]}, pore),
        feature({"type": "Hexagon", "coordinates": [square(1, 5)]}, pore),
        feature(None, pore),
        feature({"type": "Polygon", "coordinates": [square(0, 1)]}, None),
    ]
    path = tmp_path / "a.geojson"
    path.write_text(json.dumps(wrap(features)), encoding="utf-8")
    drawing = READERS["geojson"](path, ReadOptions())[0]
    assert [(region.value, area(region)) for region in drawing.regions] == [
        ("pore", 400 - 25),
        ("both", 100 + 100 - 4),
        ("crack", 41),
        ("(none)", 1),
    ]
    assert drawing.ignored == {"point": 1, "no geometry": 1}
    assert [where for where, _ in drawing.skipped] == [f"a.geojson: feature {number}" for number in (5, 6, 7)]
    assert READERS["geojson"](path, ReadOptions("objectType"))[0].regions[0].value == "annotation"


def test_regions_of_imagej(tmp_path: Path) -> None:
    from roifile import ROI_TYPE, ImagejRoi, roiwrite

    points = np.array([[10, 10], [20, 10], [20, 30], [10, 30]])
    rectangle = ImagejRoi.frompoints(points, name="r")
    rectangle.roitype, rectangle.n_coordinates, rectangle.integer_coordinates = ROI_TYPE.RECT, 0, None
    oval = ImagejRoi.frompoints(points, name="o")
    for roi in (rectangle, oval):
        # As ImageJ stores them; frompoints takes the last point for a pixel.
        roi.top, roi.left, roi.bottom, roi.right = 10, 10, 30, 20
    oval.roitype, oval.n_coordinates, oval.integer_coordinates = ROI_TYPE.OVAL, 0, None
    polygon = ImagejRoi.frompoints(points, name="silt-12")
    stroke = ImagejRoi.frompoints(np.array([[5.5, 20.5], [45.5, 20.5]]), name="crack")
    stroke.roitype, stroke.stroke_width, stroke.stroke_color = ROI_TYPE.POLYLINE, 3, b"\xff\xff\x00\x10"
    dot = ImagejRoi.frompoints(points[:1], name="dot")
    dot.roitype = ROI_TYPE.POINT
    grouped = ImagejRoi.frompoints(points, name="x")
    grouped.group = 4
    path = tmp_path / "a.zip"
    roiwrite(path, [polygon, rectangle, oval, stroke, dot, grouped], name=["silt-12", "r", "o", "crack", "dot", "x"])
    drawing = READERS["imagej"](path, ReadOptions(known=frozenset({"silt"})))[0]
    assert [region.value for region in drawing.regions] == ["silt", "r", "o", "crack", "4"]
    silt, rect, ellipse, line, _ = (area(region) for region in drawing.regions)
    assert (silt, rect) == (200, 200)
    assert ellipse == pytest.approx(math.pi * 50, rel=0.05)
    assert line == 43 * 3
    assert drawing.ignored == {"point": 1}
    assert READERS["imagej"](path, ReadOptions("stroke"))[0].regions[3].value == "#ff0010"
    one = tmp_path / "b.roi"
    polygon.tofile(one)
    assert [region.value for region in READERS["imagej"](one, ReadOptions())[0].regions] == ["silt-12"]


def test_a_damaged_roi_is_left_out_of_its_zip(tmp_path: Path) -> None:
    from roifile import ImagejRoi

    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("good.roi", ImagejRoi.frompoints(np.array([[1, 1], [5, 1], [5, 5]])).tobytes())
        archive.writestr("bad.roi", b"Iout" + b"\0" * 20)
        archive.writestr("readme.txt", b"hello")
    drawing = READERS["imagej"](path, ReadOptions())[0]
    assert len(drawing.regions) == 1
    assert [where for where, _ in drawing.skipped] == ["a.zip: bad"]


@pytest.mark.parametrize(
    ("name", "content", "chosen", "message"),
    [
        ("a.json", "", "via", "the annotation file is empty"),
        ("a.json", "{", "via", "not valid JSON at line 1, column 2"),
        ("a.json", "[" * 100_000, "via", r"not valid JSON"),
        ("a.json", "[1]", "via", "at the top: Input should be a valid dictionary"),
        ("a.json", '{"k": {"filename": "a", "regions": "x"}}', "via", r"at k\.regions.*got 'x'"),
        (
            "a.json",
            '{"k": {"filename": "a", "regions": [{}]}}',
            "via",
            r"at k\.regions\..*shape_attributes: Field required",
        ),
        ("a.json", '{"k": {"regions": []}}', "via", r"at k\.filename: Field required"),
        ("a.csv", "x,y\n1,2\n", "via", "no column 'filename'"),
        ("a.csv", "filename,region_shape_attributes,region_attributes\na,{,\n", "via", "line 2, column region_shape"),
        ("a.json", '{"shapes": 3}', "labelme", "at shapes: Input should be a valid list"),
        ("a.json", '{"shapes": [{"points": []}]}', "labelme", r"at shapes\.0\.label"),
        ("a.json", '{"images": []}', "coco", "at annotations: Field required"),
        (
            "a.json",
            '{"images": [], "categories": [], "annotations": [{"image_id": 4}]}',
            "coco",
            r"at annotations\.0\.image_id: there is no image 4",
        ),
        ("a.xml", "<annotations>", "cvat", "not valid XML"),
        ("a.xml", "<x/>", "cvat", "at the top: <x>, not <annotations>"),
        ("a.xml", '<!DOCTYPE x [<!ENTITY a "b">]><annotations/>', "cvat", "declares a document type"),
        ("a.xml", "<annotations><track/></annotations>", "cvat", "CVAT for video"),
        ("a.xml", '<annotations><image width="2"/></annotations>', "cvat", "at image 1: it has no name"),
        ("a.geojson", '{"type": "FeatureCollection"}', "geojson", "at the top: Input should be a valid list"),
        ("a.geojson", "[3]", "geojson", "at 0: Input should be"),
        ("a.roi", "hello", "imagej", "neither a ROI of ImageJ nor a ZIP"),
    ],
)
def test_a_file_of_the_wrong_shape_is_an_error_that_names_the_place(
    name: str, content: str, chosen: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message) as caught:
        READERS[chosen](path, ReadOptions())
    assert caught.value.where == str(path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"\x00\x01\x02"])
def test_a_binary_file_is_no_annotation(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(InputError):
        READERS["coco"](path, ReadOptions())


def test_the_format_is_found_in_the_content(tmp_path: Path) -> None:
    texts = {
        "via": json.dumps({"a1": via_entry("a", [])}),
        "coco": json.dumps(coco([])),
        "labelme": json.dumps(labelme([])),
        "geojson": json.dumps([feature(None, {})]),
    }
    for expected, text in texts.items():
        path = tmp_path / f"{expected}.json"
        path.write_text(text, encoding="utf-8")
        assert detect_format([path], has_thresholds=False, has_colors=False) == expected
    project = write_via(tmp_path, "project")
    assert detect_format([project], has_thresholds=False, has_colors=False) == "via"
    others = {"a.xml": "cvat", "a.csv": "via", "a.zip": "imagej", "a.png": "index"}
    for name, expected in others.items():
        assert detect_format([tmp_path / name], has_thresholds=False, has_colors=False) == expected
    assert detect_format([tmp_path / "a.png"], has_thresholds=False, has_colors=True) == "colors"
    with pytest.raises(InputError, match="several kinds: csv, xml; give --format"):
        detect_format([tmp_path / "a.xml", tmp_path / "a.csv"], has_thresholds=False, has_colors=False)
    path.write_text('{"x": 1}', encoding="utf-8")
    with pytest.raises(InputError, match="none of VIA, LabelMe, COCO and GeoJSON"):
        detect_format([path], has_thresholds=False, has_colors=False)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_only_the_exact_colour_counts(dtype: type[np.unsignedinteger[Any]]) -> None:
    full = np.iinfo(dtype).max
    generator = np.random.default_rng(0)
    pixels = generator.choice([0, 1, full - 1, full], (3, 30, 40)).astype(dtype)
    mask, _ = by_color(pixels, {"#0000ff": 1, "#ff0000": 2}, other=0)
    assert (mask == 1).tolist() == ((pixels[0] == 0) & (pixels[1] == 0) & (pixels[2] == full)).tolist()
    assert (mask == 2).tolist() == ((pixels[0] == full) & (pixels[1] == 0) & (pixels[2] == 0)).tolist()
    strict, unmatched = by_color(pixels, {"#0000ff": 1, "#ff0000": 2})
    assert sum(unmatched.values()) == int((mask == 0).sum()) == int((strict == 255).sum())


def test_bounds_are_open_or_closed_as_they_say() -> None:
    rules = [
        ThresholdRule(name="a", above=1, at_most=2),
        ThresholdRule(name="b", at_least=2, below=4),
        ThresholdRule(name="c", at_least=5),
    ]
    mask, unmatched = by_threshold(np.arange(7.0)[None], rules, {"a": 0, "b": 1, "c": 2})
    assert mask.tolist() == [[255, 255, 0, 1, 255, 2, 2]]
    assert unmatched == 3
