"""GeoJSON as QuPath writes it: full-resolution pixels, (0, 0) is the outer corner of the first pixel; geometry by shapely.

One file per image, which belongs to the image of the same stem or of the same name with its suffix.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter

from microseg_ray.annotations.regions import (
    BadRegionError,
    Drawing,
    IgnoredShapeError,
    collect,
    line,
    page_of,
    points,
    read_json,
    validated,
)
from microseg_ray.annotations.shapes import Polygon, Union
from microseg_ray.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from microseg_ray.annotations.regions import ReadOptions
    from microseg_ray.annotations.shapes import Shape
    from microseg_ray.files import Place

__all__ = ["is_geometry", "read_geojson"]

_GEOMETRIES = {
    "Point",
    "MultiPoint",
    "LineString",
    "MultiLineString",
    "Polygon",
    "MultiPolygon",
    "GeometryCollection",
}


class _Feature(BaseModel):
    geometry: dict[str, Any] | None
    properties: dict[str, Any] | None = None


_Features = TypeAdapter(list[_Feature])


def read_geojson(path: Place, options: ReadOptions) -> list[Drawing]:
    """Read GeoJSON: a FeatureCollection, a list of features, one feature, or geometries without features.

    A geometry without a feature has no class: its value is "(none)". The plane that QuPath writes is the page.
    Holes are left out, the parts of a multipolygon are one region, lines are drawn with a width, points are ignored.

    Args:
        path: The file.
        options: `attribute` None is the classification's name; else a key of the properties, dots go deeper.

    Raises:
        InputError: Not GeoJSON.

    Example:
        >>> import json, pathlib, tempfile
        >>> from microseg_ray.annotations.regions import ReadOptions
        >>> ring = [[0, 0], [4, 0], [4, 3], [0, 3], [0, 0]]
        >>> feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]},
        ...            "properties": {"classification": {"name": "pore"}}}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "a.geojson"
        ...     _ = path.write_text(json.dumps([feature]), encoding="utf-8")
        ...     region = read_geojson(path, ReadOptions())[0].regions[0]
        >>> region.value, region.shape.fill(region.shape.bounds()).sum()
        ('pore', np.int64(12))
    """
    document = read_json(path)
    if isinstance(document, dict):
        document = document.get("features") if document.get("type") == "FeatureCollection" else [document]
    if isinstance(document, list):
        document = [{"geometry": item} if is_geometry(item) else item for item in document]
    drawing = Drawing(path.stem, path.name)
    features: list[_Feature] = validated(path, document, _Features)
    for place, feature in enumerate(features):
        value = _value(feature.properties or {}, options.attribute)
        where = f"{path.name}: feature {place + 1}"
        collect(drawing, where, value, partial(_shape, feature.geometry, options), partial(_page, feature.geometry))
    return [drawing]


def is_geometry(item: Any) -> bool:
    """Whether a JSON value is a geometry without a feature.

    Example:
        >>> is_geometry({"type": "Polygon", "coordinates": []}), is_geometry({"type": "Feature"})
        (True, False)
    """
    return isinstance(item, dict) and item.get("type") in _GEOMETRIES


def _page(geometry: dict[str, Any] | None) -> int | None:
    """The page of QuPath's plane, whose z and t count from 0."""
    plane = (geometry or {}).get("plane")
    if not isinstance(plane, dict):
        return None
    z, t = (plane.get(axis, -1) for axis in ("z", "t"))
    if not isinstance(z, int) or not isinstance(t, int):
        raise BadRegionError(f"its plane is {plane!r}")
    return page_of(z, t)


def _value(properties: dict[str, Any], attribute: str | None) -> str:
    found: Any = None
    for key in (
        ("classification.name", "classification", "class", "label", "name") if attribute is None else (attribute,)
    ):
        found = properties
        for part in key.split("."):
            found = found.get(part) if isinstance(found, dict) else None
        if found is not None and not isinstance(found, dict | list):
            break
    plain = found is not None and not isinstance(found, dict | list) and str(found).strip()
    return str(found).strip() if plain else "(none)"


def _shape(geometry: dict[str, Any] | None, options: ReadOptions) -> Shape:
    if geometry is None:
        raise IgnoredShapeError("no geometry")
    try:
        from shapely.errors import ShapelyError
        from shapely.geometry import shape
    except ImportError as error:
        advice = "install it with pip install 'microseg_ray[annotations]'"
        raise InputError("GeoJSON annotations", "need shapely", advice) from error
    _require_finite(geometry.get("coordinates", []))
    try:
        found = shape(geometry)
    except (ShapelyError, ValueError, TypeError, AttributeError, KeyError, IndexError) as error:
        raise BadRegionError(f"no geometry that can be read ({' '.join(str(error).split())[:100]})") from error
    parts = tuple(_parts(found, options, options.shift(corner=True)))
    if not parts:
        raise IgnoredShapeError("point" if "Point" in found.geom_type else f"empty {found.geom_type}")
    return parts[0] if len(parts) == 1 else Union(parts)


def _parts(found: Any, options: ReadOptions, shift: float) -> Iterator[Shape]:
    for part in getattr(found, "geoms", [found]):
        if part is not found and hasattr(part, "geoms"):
            yield from _parts(part, options, shift)
        elif part.geom_type == "Polygon" and not part.is_empty:
            yield Polygon(tuple(points(ring.coords, shift) for ring in (part.exterior, *part.interiors)))
        elif part.geom_type in {"LineString", "LinearRing"} and not part.is_empty:
            yield line(part.coords, options.line_width, shift)


def _require_finite(coordinates: Any) -> None:
    """Every number of nested lists; shapely takes NaN without a word."""
    waiting = [coordinates]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            if item and not isinstance(item[0], list):
                points([item])
            else:
                waiting += item
