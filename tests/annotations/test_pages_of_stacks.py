"""`microseg annotate`: regions drawn on other pages of a stack."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from microseg_ray.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


from tests.annotations.drawn import SIDE, run, write_rois


@pytest.mark.parametrize("key", ["position", "z_position", "t_position"])
def test_regions_of_other_pages_are_not_drawn_but_listed(stack: Path, tmp_path: Path, key: str) -> None:
    rois = [("i-1", {key: 1}), ("i-2", {key: 2}), ("t-3", {key: 3}), ("t-4", {})]
    zipped = write_rois(tmp_path / "a.zip", *rois)
    for page in range(3):
        report, masks = run(stack, zipped, tmp_path, source={"page": page})
        drawn = {corner: int(masks["a.tif"][5, 5 + 15 * corner]) for corner in range(4)}
        own = [2, 2, 1][page]
        assert drawn == {corner: own if corner == page else 1 if corner == 3 else 0 for corner in range(4)}
        assert len(report.other_pages) == 2
        assert report.problems["regions of other pages"] == 2


def test_regions_of_other_pages_alone_are_no_mask(stack: Path, tmp_path: Path, microseg: Callable[..., Any]) -> None:
    zipped = write_rois(tmp_path / "a.zip", ("i-1", {"position": 3}), ("t", {"z_position": 2, "t_position": 2}))
    options = ("--images", stack, "--annotations", zipped, "--classes", '["matrix","t","i"]')
    done = microseg("annotate", *options, "--output", tmp_path / "masks")
    assert done.code == 3
    assert "page 0 is read, and they are on 2; give --source.page 2" in done.out
    assert "it is on slice 2 of frame 2" in done.out
    assert not list((tmp_path / "masks").glob("*.png"))


def test_frames_of_a_coco_file_are_pages(stack: Path, tmp_path: Path) -> None:
    def document(**keys: Any) -> Path:
        images = [{"id": n, "file_name": "a.tif", "height": SIDE, "width": SIDE} for n in range(3)]
        images = [{**image, **dict.fromkeys(keys, image["id"])} for image in images]
        square = [[5, 5, 25, 5, 25, 25, 5, 25]]
        drawn = [{"image_id": 1, "category_id": 1, "segmentation": square}]
        path = tmp_path / "coco.json"
        whole = {"images": images, "annotations": drawn, "categories": [{"id": 1, "name": "i"}]}
        path.write_text(json.dumps(whole), encoding="utf-8")
        return path

    report, masks = run(stack, document(frame_index=0), tmp_path)
    assert not masks
    assert "give --source.page 1" in report.failures[0][2]
    _, masks = run(stack, document(frame_index=0), tmp_path, source={"page": 1})
    assert masks["a.tif"].sum() == 2 * 400
    with pytest.raises(InputError, match=r"3 images are named a\.tif"):
        run(stack, document(), tmp_path)


def test_the_plane_of_a_geojson_is_a_page(stack: Path, tmp_path: Path) -> None:
    ring = [[5, 5], [25, 5], [25, 25], [5, 25], [5, 5]]

    def write(z: int) -> Path:
        geometry = {"type": "Polygon", "coordinates": [ring], "plane": {"c": -1, "z": z, "t": 0}}
        feature = {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": "i"}}}
        (tmp_path / "a.geojson").write_text(json.dumps([feature]), encoding="utf-8")
        return tmp_path / "a.geojson"

    assert run(stack, write(0), tmp_path)[1]["a.tif"].sum() == 2 * 400
    report, masks = run(stack, write(2), tmp_path)
    assert not masks
    assert "give --source.page 2" in report.failures[0][2]
    assert run(stack, write(2), tmp_path, source={"page": 2})[1]["a.tif"].sum() == 2 * 400
