"""Shapes, their pixels by scikit-image, and files that hold them."""

from __future__ import annotations

import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from microseg_ray.annotations import annotate
from microseg_ray.settings import AnnotateSettings
from microseg_ray.sources import read_mask

if TYPE_CHECKING:
    from pathlib import Path

    from microseg_ray.annotations import AnnotationReport


SIDE = 64


def add_image(path: Path, side: int = SIDE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(side * side, dtype=np.uint32).astype(np.uint8).reshape(side, side)).save(path)


def run(
    images: Path, annotations: Path, tmp_path: Path, **options: Any
) -> tuple[AnnotationReport, dict[str, np.ndarray]]:
    output = tmp_path / f"masks{len(list(tmp_path.glob('masks*')))}"
    options = {"classes": ["matrix", "t", "i"], **options}
    report = annotate(AnnotateSettings(images=str(images), annotations=str(annotations), output=str(output), **options))
    return report, {line.image: read_mask(output / line.mask) for line in report.masks}


def write_rois(path: Path, *rois: tuple[str, dict[str, int]]) -> Path:
    """A ZIP of squares of 10 px, by name, each at a place in a stack; no two squares touch."""
    from roifile import ImagejRoi

    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, place) in enumerate(rois):
            x, y = 15 * (number % 4), 15 * (number // 4)
            corners = np.array([[x, y], [x + 10, y], [x + 10, y + 10], [x, y + 10]], np.float32)
            roi = ImagejRoi.frompoints(corners, name=name)
            for key, value in place.items():
                setattr(roi, key, value)
            archive.writestr(f"{name}.roi", roi.tobytes())
    return path


def polygon(*points: tuple[float, float]) -> dict[str, Any]:
    return {"name": "polygon", "all_points_x": [x for x, _ in points], "all_points_y": [y for _, y in points]}


LEFT = polygon((5, 5), (40, 5), (40, 40), (5, 40))
RIGHT = polygon((25, 20), (60, 25), (55, 60), (20, 50))


def write_via(path: Path, **regions: list[tuple[dict[str, Any], dict[str, Any]]]) -> Path:
    entries = {}
    for name, drawn in regions.items():
        parts = [{"shape_attributes": shape, "region_attributes": attributes} for shape, attributes in drawn]
        entries[f"{name}1"] = {"filename": name, "size": 1, "regions": parts}
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path
