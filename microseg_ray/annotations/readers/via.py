"""VGG Image Annotator: 2.x JSON, project file and CSV, and 1.x JSON, where regions are a dict (Dutta and Zisserman, 2019).

A whole number is the centre of a pixel, so a polygon is filled as `skimage.draw.polygon` fills it.
"""

from __future__ import annotations

import csv
import io
import json
from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter

from microseg_ray.annotations.regions import (
    BadRegionError,
    Drawing,
    IgnoredShapeError,
    collect,
    line,
    number,
    polygon,
    read_json,
    read_text,
    validated,
)
from microseg_ray.annotations.shapes import Ellipse, Rectangle
from microseg_ray.errors import InputError

if TYPE_CHECKING:
    from microseg_ray.annotations.regions import ReadOptions
    from microseg_ray.annotations.shapes import Shape
    from microseg_ray.files import Place

__all__ = ["read_via"]

_COLUMNS = ("filename", "region_shape_attributes", "region_attributes")
_NO_VALUE = "(none)"


class _Region(BaseModel):
    shape_attributes: dict[str, Any]
    region_attributes: dict[str, Any] = {}


class _Entry(BaseModel):
    filename: str
    regions: list[_Region] | dict[str, _Region] = []


_Entries = TypeAdapter(dict[str, _Entry])


def read_via(path: Place, options: ReadOptions) -> list[Drawing]:
    """Read a VIA file of any kind.

    Args:
        path: JSON, project JSON or CSV.
        options: `attribute` is the region attribute of the class; needed where there are several.

    Returns:
        One drawing per image, in the file's order.

    Raises:
        InputError: Not VIA, or several attributes and none chosen.

    Example:
        >>> import tempfile, pathlib
        >>> from microseg_ray.annotations.regions import ReadOptions
        >>> shape = {"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4}
        >>> entry = {"filename": "a.png", "regions": [{"shape_attributes": shape, "region_attributes": {"name": "pore"}}]}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "via.json"
        ...     _ = path.write_text(json.dumps({"a.png100": entry}), encoding="utf-8")
        ...     read_via(path, ReadOptions())[0].regions[0].value
        'pore'
    """
    entries = _of_csv(path) if _is_csv(path) else _of_json(path)
    attribute = options.attribute or _only_attribute(path, entries)
    drawings: dict[str, Drawing] = {}
    for entry in entries:
        drawing = drawings.setdefault(entry.filename, Drawing(entry.filename, f"{path.name}: {entry.filename}"))
        regions = entry.regions.values() if isinstance(entry.regions, dict) else entry.regions
        for region in regions:
            place = len(drawing.regions) + len(drawing.skipped) + sum(drawing.ignored.values()) + 1
            value = _value(region.region_attributes.get(attribute)) if attribute else _NO_VALUE
            shape = region.shape_attributes
            collect(drawing, f"{drawing.where}: region {place}", value, partial(_shape, shape, options))
    return list(drawings.values())


def _is_csv(path: Place) -> bool:
    return not read_text(path).lstrip().startswith(("{", "["))


def _of_json(path: Place) -> list[_Entry]:
    document = read_json(path)
    if isinstance(document, dict) and "_via_img_metadata" in document:
        document = document["_via_img_metadata"]
    return list(validated(path, document, _Entries).values())


def _of_csv(path: Place) -> list[_Entry]:
    # VIA 1 puts a comment in front of the header.
    text = read_text(path).lstrip().removeprefix("#")
    reader = csv.DictReader(io.StringIO(text, newline=""))
    entries: list[_Entry] = []
    try:
        missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise InputError(
                path, f"no column {missing[0]!r}: this is no CSV of VIA", "export it again, or give --format"
            )
        for row in reader:
            cells = [_cell(path, reader.line_num, name, row[name]) for name in _COLUMNS[1:]]
            region = {"shape_attributes": cells[0], "region_attributes": cells[1]}
            regions = [region] if cells[0] else []
            entries.append(validated(path, {"filename": row["filename"], "regions": regions}, _Entry))
    except csv.Error as error:
        raise InputError(path, f"line {reader.line_num}: not valid CSV ({error})", "export it again") from error
    return entries


def _cell(path: Place, row: int, column: str, text: str | None) -> Any:
    try:
        cell = json.loads(text or "{}")
    except (ValueError, RecursionError):
        cell = None
    if not isinstance(cell, dict):
        raise InputError(path, f"line {row}, column {column}: not a JSON object", "export the CSV again")
    return cell


def _only_attribute(path: Place, entries: list[_Entry]) -> str | None:
    names: dict[str, None] = {}
    for entry in entries:
        for region in entry.regions.values() if isinstance(entry.regions, dict) else entry.regions:
            names.update(dict.fromkeys(region.region_attributes))
    if len(names) > 1:
        shown = ", ".join(names)
        raise InputError(
            path, f"regions have several attributes: {shown}", "say which is the class with --attribute NAME"
        )
    return next(iter(names), None)


def _value(value: Any) -> str:
    """Of a text, radio or dropdown attribute its text; of a checkbox what is ticked, joined by + where it is more."""
    if isinstance(value, dict):
        return "+".join(str(name) for name, ticked in value.items() if ticked) or _NO_VALUE
    return _NO_VALUE if value is None or not str(value).strip() else str(value).strip()


def _shape(shape: dict[str, Any], options: ReadOptions) -> Shape:
    shift = options.shift(corner=False)

    def get(name: str) -> float:
        return number(shape.get(name), name)

    match shape.get("name"):
        case "polygon":
            return polygon(_pairs(shape), shift)
        case "polyline":
            return line(_pairs(shape), options.line_width, shift)
        case "rect":
            y, x, height, width = get("y") + shift, get("x") + shift, get("height"), get("width")
            if height < 0 or width < 0:
                raise BadRegionError(f"a rectangle of {height:g} x {width:g} px")
            return Rectangle(y, x, y + height, x + width)
        case "circle":
            return Ellipse(get("cy") + shift, get("cx") + shift, abs(get("r")), abs(get("r")))
        case "ellipse":
            theta = number(shape.get("theta", 0.0), "theta")
            return Ellipse(get("cy") + shift, get("cx") + shift, abs(get("ry")), abs(get("rx")), theta)
        case "point":
            raise IgnoredShapeError("point")
        case other:
            raise BadRegionError(f"shape {other!r} is none of polygon, rect, circle, ellipse, polyline, point")


def _pairs(shape: dict[str, Any]) -> list[tuple[Any, Any]]:
    xs, ys = shape.get("all_points_x"), shape.get("all_points_y")
    if not isinstance(xs, list) or not isinstance(ys, list) or len(xs) != len(ys):
        raise BadRegionError("all_points_x and all_points_y are not two lists of the same length")
    return list(zip(xs, ys, strict=True))
