"""Files of the VGG Image Annotator."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from skimage.draw import polygon as skimage_polygon

from microseg_ray.annotations import READERS, ReadOptions, rasterise
from microseg_ray.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

    from microseg_ray.annotations import Drawing

from tests.annotations.made_files import SHAPE, TRIANGLE, area, via_polygon, write_via


def masks_of(drawings: list[Drawing]) -> np.ndarray:
    return rasterise(drawings[0].regions, SHAPE, {"i": 2, "t": 1})


@pytest.mark.parametrize("kind", ["project", "one", "csv", "csv_one"])
def test_every_kind_of_via_file_gives_the_same_mask(kind: str, tmp_path: Path) -> None:
    expected = READERS["via"](write_via(tmp_path, "json"), ReadOptions())
    found = READERS["via"](write_via(tmp_path, kind), ReadOptions())
    assert (masks_of(found) == masks_of(expected)).all()
    assert set(np.unique(masks_of(found))) == {0, 1, 2}
    assert [drawing.image for drawing in found] == ["a.png"]
    assert found[0].ignored == {"point": 1}


def test_shapes_of_via(tmp_path: Path) -> None:
    triangle, rect, circle, ellipse, polyline = READERS["via"](write_via(tmp_path, "json"), ReadOptions())[0].regions
    x, y = np.array(TRIANGLE).T
    assert area(triangle) == len(skimage_polygon(y, x, SHAPE)[0])
    assert area(rect) == 70
    assert area(circle) == pytest.approx(math.pi * 36, rel=0.05)
    assert area(ellipse) == pytest.approx(math.pi * 48, rel=0.05)
    # Turned clockwise on the screen, a long axis along x goes down to the right.
    mask = rasterise([ellipse], SHAPE, {"t": 1})
    assert mask[15 + 5, 30 + 8] == 1
    assert mask[15 - 5, 30 + 8] == 0
    assert area(polyline) >= 50


def test_a_line_has_the_width_that_is_asked_for(tmp_path: Path) -> None:
    regions = [({"name": "polyline", "all_points_x": [5, 45], "all_points_y": [20, 20]}, {"name": "i"})]
    path = write_via(tmp_path, "json", regions=regions)
    widths = [area(READERS["via"](path, ReadOptions(line_width=width))[0].regions[0]) for width in (1.0, 3.0)]
    assert widths[0] == 41
    assert widths[1] == 43 * 3


def test_the_class_of_a_via_region(tmp_path: Path) -> None:
    shape = via_polygon(TRIANGLE)
    values = [{"kind": {"silt": True, "pore": False}}, {"kind": {"silt": True, "pore": True}}, {"kind": " pore "}, {}]
    path = write_via(tmp_path, "json", regions=[(shape, value) for value in values])
    assert [region.value for region in READERS["via"](path, ReadOptions())[0].regions] == [
        "silt",
        "silt+pore",
        "pore",
        "(none)",
    ]
    path = write_via(tmp_path, "json", regions=[(shape, {"kind": "silt", "by": "me"})])
    assert READERS["via"](path, ReadOptions("by"))[0].regions[0].value == "me"
    with pytest.raises(InputError, match="several attributes: kind, by; say which is the class with --attribute"):
        READERS["via"](path, ReadOptions())


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (via_polygon(TRIANGLE[:2]), "a polygon of 2 points has no area"),
        (via_polygon([*TRIANGLE, (math.nan, 3.0)]), "point 4 is NaN or infinite"),
        (via_polygon([*TRIANGLE, (math.inf, 3.0)]), "point 4 is NaN or infinite"),
        (via_polygon([*TRIANGLE, (1e300, 3.0)]), "beyond any micrograph"),
        ({"name": "polygon", "all_points_x": [1, 2, 3], "all_points_y": [1, 2]}, "not two lists of the same length"),
        ({"name": "polygon", "all_points_x": ["a", 2, 3], "all_points_y": [1, 2, 3]}, "not pairs of numbers"),
        ({"name": "polygon"}, "not two lists of the same length"),
        ({"name": "rect", "x": 1, "y": 1, "width": -3, "height": 2}, "a rectangle of 2 x -3 px"),
        ({"name": "rect", "x": 1, "y": 1, "width": 3}, "height is None, not a number"),
        ({"name": "circle", "cx": 1, "cy": 1, "r": math.nan}, "r is nan"),
        ({"name": "polyline", "all_points_x": [1], "all_points_y": [1]}, "a line of 1 point has no length"),
        ({"name": "star"}, "shape 'star' is none of"),
        ({}, "shape None is none of"),
    ],
)
def test_a_bad_region_is_left_out_with_its_reason(shape: dict[str, Any], reason: str, tmp_path: Path) -> None:
    regions = [(via_polygon(TRIANGLE), {"name": "i"}), (shape, {"name": "i"})]
    drawing = READERS["via"](write_via(tmp_path, "json", regions=regions), ReadOptions())[0]
    assert len(drawing.regions) == 1
    assert [where for where, _ in drawing.skipped] == ["via_json.json: a.png: region 2"]
    assert reason in drawing.skipped[0][1]
