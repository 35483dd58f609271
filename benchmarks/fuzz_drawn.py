"""Annotations that `python -m benchmarks fuzz` damages."""

from __future__ import annotations

import json
import struct
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.annotations.detect import READERS, detect_format
from microseg_ray.annotations.painting import rasterise
from microseg_ray.annotations.readers.cvat import read_label_map
from microseg_ray.annotations.regions import ReadOptions

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

from benchmarks.fuzz_parser import SHAPE, SQUARE, Parser, texts

__all__ = ["DRAWN"]


def _drawn(kind: str, path: Path) -> None:
    drawings = READERS[kind](path, ReadOptions())
    for drawing in drawings:
        rasterise(drawing.regions, SHAPE, {region.value: 1 for region in drawing.regions})
    detect_format([path], has_thresholds=False, has_colors=False)


_VIA = {
    "a.png9": {
        "filename": "a.png", "size": 9, "file_attributes": {},
        "regions": [
            {"shape_attributes": shape, "region_attributes": {"name": "pore"}}
            for shape in (
                {"name": "polygon", "all_points_x": [1, 9, 9], "all_points_y": [1, 1, 8]},
                {"name": "circle", "cx": 20, "cy": 20, "r": 5.5},
                {"name": "ellipse", "cx": 20, "cy": 20, "rx": 5, "ry": 3, "theta": 0.4},
                {"name": "rect", "x": 3, "y": 4, "width": 5, "height": 6},
                {"name": "polyline", "all_points_x": [0, 49], "all_points_y": [39, 20]},
            )
        ],
    }
}  # fmt: skip


_VIA_CSV = (
    "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
    'a.png,9,"{}",1,0,"{""name"":""rect"",""x"":3,""y"":4,""width"":5,""height"":6}","{""name"":""pore""}"\n'
)


_LABELME = {
    "version": "5.0.1", "imagePath": "a.png", "imageHeight": 40, "imageWidth": 50, "imageData": None,
    "shapes": [
        {"label": "pore", "points": SQUARE, "shape_type": "polygon", "flags": {}, "group_id": None},
        {"label": "pore", "points": SQUARE[:2], "shape_type": "circle", "flags": {}, "group_id": 1},
        {"label": "pore", "points": SQUARE[1:3], "shape_type": "rectangle", "flags": {}},
        {"label": "pore", "points": SQUARE[:3], "shape_type": "linestrip", "flags": {}},
    ],
}  # fmt: skip


_COCO = {
    "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 50}],
    "categories": [{"id": 1, "name": "pore"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [10, 10, 10, 20],
         "segmentation": [[10, 10, 20, 10, 20, 30]]},
        {"id": 2, "image_id": 1, "category_id": 1, "iscrowd": 1, "segmentation": {"size": [40, 50], "counts": [100, 300, 1600]}},
        {"id": 3, "image_id": 1, "category_id": 1, "iscrowd": 1, "segmentation": {"size": [40, 50], "counts": "T3\\9P2"}},
    ],
}  # fmt: skip


_CVAT = """<?xml version="1.0"?><annotations><version>1.1</version><image id="0" name="a.png" width="50" height="40">
<box label="pore" xtl="3.0" ytl="4.0" xbr="13.0" ybr="11.0" rotation="90" z_order="1"><attribute name="by">me</attribute></box>
<polygon label="silt" points="10.0,10.0;20.0,10.0;20.0,30.0;10.0,30.0" z_order="0"/>
<ellipse label="silt" cx="25" cy="20" rx="10" ry="4" rotation="45"/><polyline label="silt" points="5.5,20.5;45.5,20.5"/>
<mask label="silt" rle="1, 2, 1, 2" left="7" top="8" width="3" height="2"/></image></annotations>
"""


_GEOJSON = {
    "type": "FeatureCollection",
    "features": [
        {"type": "Feature", "properties": {"classification": {"name": "pore"}}, "geometry": geometry}
        for geometry in (
            {"type": "Polygon", "coordinates": [[*SQUARE, SQUARE[0]]]},
            {"type": "MultiPolygon", "coordinates": [[[*SQUARE, SQUARE[0]]]]},
            {"type": "LineString", "coordinates": SQUARE},
        )
    ],
}


def _rois(folder: Path) -> Sequence[Path]:
    from roifile import ROI_TYPE, ImagejRoi, roiwrite

    polygon = ImagejRoi.frompoints(np.array(SQUARE), name="pore")
    stroke = ImagejRoi.frompoints(np.array([[5.5, 20.5], [45.5, 20.5]]), name="crack")
    stroke.roitype, stroke.stroke_width = ROI_TYPE.POLYLINE, 3
    polygon.tofile(folder / "a.roi")
    roiwrite(folder / "b.zip", [polygon, stroke], name=["pore", "crack"])
    return [folder / "a.roi", folder / "b.zip"]


def _records(folder: Path) -> Sequence[Path]:
    import crc32c
    from tfrecord import example_pb2

    def masked(content: bytes) -> bytes:
        value = crc32c.crc32c(content)
        return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    example = example_pb2.Example()
    example.features.feature["image/height"].int64_list.value.append(40)
    content = example.SerializeToString()
    head = struct.pack("<Q", len(content))
    (folder / "a.tfrecord").write_bytes(head + masked(head) + content + masked(content))
    return [folder / "a.tfrecord"]


def _read_records(path: Path) -> None:
    from microseg_ray.annotations.records import read_records

    list(read_records(path))


DRAWN: dict[str, Parser] = {
    "annotations: VIA JSON": Parser(texts(("a.json", json.dumps(_VIA))), partial(_drawn, "via")),
    "annotations: VIA CSV": Parser(texts(("a.csv", _VIA_CSV)), partial(_drawn, "via")),
    "annotations: LabelMe": Parser(texts(("a.json", json.dumps(_LABELME))), partial(_drawn, "labelme")),
    "annotations: COCO": Parser(texts(("a.json", json.dumps(_COCO))), partial(_drawn, "coco")),
    "annotations: CVAT": Parser(texts(("a.xml", _CVAT)), partial(_drawn, "cvat")),
    "annotations: GeoJSON": Parser(texts(("a.geojson", json.dumps(_GEOJSON))), partial(_drawn, "geojson")),
    "annotations: ImageJ": Parser(_rois, partial(_drawn, "imagej")),
    "annotations: TFRecord": Parser(_records, _read_records),
    "annotations: label map": Parser(texts(("labelmap.txt", "# label:color:parts:actions\npore:255,0,0::\n")), read_label_map),
}  # fmt: skip
