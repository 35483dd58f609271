"""`microseg annotate`: regions and files without a class are never an empty success."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from microseg_ray.settings import AnnotateSettings
from microseg_ray.sources import read_mask

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

from tests.annotations.drawn import LEFT, RIGHT, SIDE, run, write_rois, write_via


def unmapped(kind: str, folder: Path) -> tuple[Path, str]:
    """An annotation of two regions in one format, none of which has a class that is known; and the format."""
    corners = [[5, 5], [25, 5], [25, 25], [5, 25]]
    ring = [*corners, corners[0]]
    flat = [value for corner in corners for value in corner]
    points = ";".join(f"{x},{y}" for x, y in corners)
    drawn = f'<polygon label="7" points="{points}"/>'
    texts = {
        "labelme": json.dumps({"shapes": [{"label": 7, "points": corners}] * 2}),
        "coco": json.dumps(
            {
                "images": [{"id": 1, "file_name": "a.png", "height": SIDE, "width": SIDE}],
                "annotations": [{"image_id": 1, "category_id": 7, "segmentation": [flat]}] * 2,
                "categories": [],
            }
        ),
        "cvat": f'<annotations><image name="a.png" width="{SIDE}" height="{SIDE}">{drawn}{drawn}</image></annotations>',
        "geojson": json.dumps([{"type": "Polygon", "coordinates": [ring]}] * 2),
    }
    suffix = {"cvat": ".xml", "geojson": ".geojson"}.get(kind, ".json")
    if kind == "imagej":
        return write_rois(folder / "a.zip", ("0001-0171", {}), ("0002-0174", {})), kind
    if kind == "via":
        return write_via(folder / "a.json", **{"a.png": [(LEFT, {}), (RIGHT, {})]}), kind
    (folder / f"a{suffix}").write_text(texts[kind], encoding="utf-8")
    return folder / f"a{suffix}", kind


@pytest.mark.parametrize("kind", ["via", "labelme", "coco", "cvat", "geojson", "imagej"])
@pytest.mark.parametrize("empty", ["skip", "unlabelled"])
def test_regions_without_a_class_are_never_an_empty_success(
    kind: str, empty: str, images: Path, tmp_path: Path, microseg: Callable[..., Any]
) -> None:
    annotation, kind = unmapped(kind, tmp_path)
    options = ("--images", images, "--annotations", annotation, "--classes", '["matrix","t"]', "--empty", empty)
    done = microseg("annotate", *options, "--output", tmp_path / "masks")
    assert done.code == 3
    assert "none of its 2 regions was drawn" in done.out
    assert "all of them to one class with --default_class NAME" in done.out
    assert not list((tmp_path / "masks").glob("*.png"))
    done = microseg("annotate", *options, "--default_class", "t", "--output", tmp_path / "again", "--strict")
    assert done.code == 0, done.out + done.err
    assert (read_mask(tmp_path / "again" / "a.png") == 1).sum() >= 100
    assert "2 regions drawn as default_class" in done.out


def test_an_output_without_a_mask_is_never_a_success(
    images: Path, tmp_path: Path, microseg: Callable[..., Any]
) -> None:
    via = write_via(tmp_path / "via.json", **{"gone.png": [(LEFT, {"name": "i"})], "a.png": []})
    options = ("--images", images, "--annotations", via, "--classes", '["matrix","i"]', "--output", tmp_path / "masks")
    done = microseg("annotate", *options, "--attribute", "name")
    assert done.code == 3
    assert "no mask: 1 images without regions, 1 annotations without image" in done.out


def test_an_annotation_image_without_a_known_colour_is_no_mask(images: Path, tmp_path: Path) -> None:
    (tmp_path / "drawn").mkdir()
    Image.fromarray(np.full((SIDE, SIDE, 3), (1, 2, 3), np.uint8)).save(tmp_path / "drawn" / "a.png")
    report, masks = run(images, tmp_path / "drawn", tmp_path, format="colors")
    assert not masks
    assert "fits a rule; it holds #010203" in report.failures[0][2]


def test_a_default_class_that_is_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match="default_class: no class 'grian'"):
        AnnotateSettings(images="x", annotations="y", output="z", classes=["a"], default_class="grian")
