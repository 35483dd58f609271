"""Annotation files made by tests, and the area of what is read from them."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING, Any

from microseg_ray.annotations import rasterise

if TYPE_CHECKING:
    from pathlib import Path

    from microseg_ray.annotations import Region


SHAPE = (40, 50)
TRIANGLE = [(5.0, 4.0), (30.0, 8.0), (12.0, 33.0)]


def area(region: Region, shape: tuple[int, int] = SHAPE) -> int:
    return int(rasterise([region], shape, {region.value: 1}).sum())


def via_polygon(points: list[tuple[float, float]]) -> dict[str, Any]:
    return {
        "name": "polygon",
        "all_points_x": [x for x, _ in points],
        "all_points_y": [y for _, y in points],
    }


def via_entry(name: str, regions: list[tuple[dict[str, Any], dict[str, Any]]]) -> dict[str, Any]:
    return {
        "filename": name,
        "size": 123,
        "regions": [{"shape_attributes": shape, "region_attributes": attributes} for shape, attributes in regions],
        "file_attributes": {},
    }


VIA_REGIONS = [
    (via_polygon(TRIANGLE), {"name": "i"}),
    ({"name": "rect", "x": 3, "y": 4, "width": 10, "height": 7}, {"name": "t"}),
    ({"name": "circle", "cx": 25, "cy": 20, "r": 6}, {"name": "i"}),
    ({"name": "ellipse", "cx": 30, "cy": 15, "rx": 12, "ry": 4, "theta": 0.6}, {"name": "t"}),
    ({"name": "polyline", "all_points_x": [0, 49], "all_points_y": [39, 20]}, {"name": "i"}),
    ({"name": "point", "cx": 3, "cy": 3}, {"name": "i"}),
]


def write_via(folder: Path, kind: str, name: str = "a.png", regions: list[Any] | None = None) -> Path:
    regions = VIA_REGIONS if regions is None else regions
    entry = via_entry(name, regions)
    path = folder / f"via_{kind}.{'csv' if kind.startswith('csv') else 'json'}"
    if kind == "json":
        path.write_text(json.dumps({f"{name}123": entry}), encoding="utf-8")
    elif kind == "project":
        project = {"_via_settings": {}, "_via_img_metadata": {f"{name}123": entry}, "_via_attributes": {}}
        path.write_text(json.dumps(project), encoding="utf-8")
    elif kind == "one":
        entry["regions"] = {str(place): region for place, region in enumerate(entry["regions"])}
        entry["base64_img_data"] = ""
        path.write_text(json.dumps({f"{name}123": entry}), encoding="utf-8")
    else:
        text = io.StringIO()
        columns = "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes"
        text.write(("#" if kind == "csv_one" else "") + columns + "\n")
        writer = csv.writer(text)
        for place, (shape, attributes) in enumerate(regions):
            writer.writerow([name, 123, "{}", len(regions), place, json.dumps(shape), json.dumps(attributes)])
        path.write_text(text.getvalue(), encoding="utf-8")
    return path
