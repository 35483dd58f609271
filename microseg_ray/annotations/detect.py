"""Which format annotation files have, by what is in them, and the reader of each format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from microseg_ray.annotations.readers.coco import read_coco
from microseg_ray.annotations.readers.cvat import read_cvat
from microseg_ray.annotations.readers.geojson import is_geometry, read_geojson
from microseg_ray.annotations.readers.imagej import read_imagej
from microseg_ray.annotations.readers.labelme import read_labelme
from microseg_ray.annotations.readers.via import read_via
from microseg_ray.annotations.regions import read_json
from microseg_ray.errors import InputError
from microseg_ray.sources import SUFFIXES, list_files

if TYPE_CHECKING:
    from collections.abc import Callable

    from microseg_ray.annotations.regions import Drawing, ReadOptions
    from microseg_ray.files import Place

__all__ = ["BY_STEM", "LABEL_MAP", "READERS", "detect_format", "list_annotations"]

READERS: dict[str, Callable[[Place, ReadOptions], list[Drawing]]] = {
    "via": read_via,
    "labelme": read_labelme,
    "coco": read_coco,
    "cvat": read_cvat,
    "geojson": read_geojson,
    "imagej": read_imagej,
}
"""The reader of each format of drawn regions."""

BY_STEM = frozenset({"labelme", "geojson", "imagej"})
"""Formats of one file per image, which belong together by their stems."""

LABEL_MAP = "labelmap.txt"
_SUFFIXES = {
    "via": (".json", ".csv"),
    "labelme": (".json",),
    "coco": (".json",),
    "cvat": (".xml",),
    "geojson": (".geojson", ".json"),
    "imagej": (".roi", ".zip"),
}
_GIVE = "give --format"


def list_annotations(where: str, chosen: str) -> list[Place]:
    """The annotation files that a user means by a file, a folder or a glob.

    Args:
        where: What was given.
        chosen: The format, "auto" for any.

    Raises:
        InputError: Nothing is there.
    """
    drawn = tuple(sorted({suffix for suffixes in _SUFFIXES.values() for suffix in suffixes}))
    suffixes = _SUFFIXES.get(chosen, SUFFIXES if chosen != "auto" else (*drawn, *SUFFIXES))
    files = list_files(where, suffixes)
    if chosen != "auto":
        return files
    # A folder with both annotations and micrographs is meant for the annotations.
    return [file for file in files if file.suffix.lower() in drawn] or files


def detect_format(files: list[Place], *, has_thresholds: bool, has_colors: bool) -> str:
    """The one format of annotation files, by the content of the first.

    Args:
        files: What `list_annotations` found for "auto".
        has_thresholds: The settings hold thresholds.
        has_colors: The settings hold colours.

    Raises:
        InputError: It is none that is known, or the files are of several formats.
    """
    kinds = {_family(file) for file in files}
    if len(kinds) > 1:
        raise InputError(files[0].parent, f"there are files of several kinds: {', '.join(sorted(kinds))}", _GIVE)
    first = files[0]
    match _family(first):
        case "xml":
            return "cvat"
        case "csv":
            return "via"
        case "roi":
            return "imagej"
        case "json":
            return _json_format(first, read_json(first))
        case _:
            if any((folder / LABEL_MAP).is_file() for folder in (first.parent, first.parent.parent)):
                return "cvat_mask"
            return "thresholds" if has_thresholds else "colors" if has_colors else "index"


def _family(path: Place) -> str:
    suffix = path.suffix.lower()
    known = {".xml": "xml", ".csv": "csv", ".roi": "roi", ".zip": "roi", ".json": "json", ".geojson": "json"}
    return known.get(suffix, "image")


def _json_format(path: Place, document: Any) -> str:
    if isinstance(document, list):
        kinds = {item.get("type") for item in document if isinstance(item, dict)}
        if kinds == {"Feature"} or not document or all(is_geometry(item) for item in document):
            return "geojson"
    elif isinstance(document, dict):
        if "_via_img_metadata" in document:
            return "via"
        if document.get("type") in {"FeatureCollection", "Feature"} or is_geometry(document):
            return "geojson"
        if {"images", "annotations", "categories"} <= document.keys():
            return "coco"
        if "shapes" in document:
            return "labelme"
        if any(isinstance(value, dict) and "filename" in value for value in document.values()):
            return "via"
    raise InputError(path, "the JSON is none of VIA, LabelMe, COCO and GeoJSON", _GIVE)
