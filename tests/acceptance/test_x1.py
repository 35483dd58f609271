"""X1: the tiles of melt pools overlap byte for byte, and COCO polygons have the areas that the file states."""

from __future__ import annotations

import json

import numpy as np
import pytest

from microseg_ray.annotations.readers.coco import read_coco
from microseg_ray.annotations.regions import ReadOptions
from microseg_ray.geometry import Box

# Annotations whose pixels are not within 1 % of the stated area: (place in the file, drawn, stated).
# Each is one simple ring without holes or overlaps that the border of its tile cuts. The file states the area that the ring
# encloses (shoelace formula); a mask counts whole pixels. On small parts the two differ by more than 1 %.
BEYOND = {24: (457, 464), 96: (1314, 1329), 102: (364, 358), 132: (375, 369)}


def enclosed(ring: np.ndarray) -> float:
    """The area inside a ring of (x, y)."""
    x, y = ring.T
    return abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1)))) / 2


def test_each_polygon_has_the_stated_area_or_is_listed(real_data):
    pytest.importorskip("pycocotools")
    path = real_data / "meltpool" / "coco.json"
    annotations = json.loads(path.read_text(encoding="utf-8"))["annotations"]
    shapes = {
        int(region.where.rsplit(".", 1)[1]): region.shape
        for drawing in read_coco(path, ReadOptions())
        for region in drawing.regions
    }
    tile, beyond = Box.of_shape((512, 512)), {}
    for place, annotation in enumerate(annotations):
        rings = [np.reshape(flat, (-1, 2)).astype(float) for flat in annotation["segmentation"]]
        shape, stated = shapes[place], annotation["area"]
        drawn = int(shape.fill(shape.bounds().intersection(tile)).sum())
        if len(rings) == 1:
            assert abs(enclosed(rings[0]) - stated) <= 0.5, place
        if abs(drawn - stated) > 0.01 * stated:
            beyond[place] = (drawn, stated)
            length = sum(float(np.hypot(*(ring - np.roll(ring, 1, 0)).T).sum()) for ring in rings)
            # Far less than the pixels along the outline, of which each may count or not.
            assert abs(drawn - stated) < length / 8, place
            assert len(rings) == 1
            assert {0.0, 512.0} & set(rings[0].ravel().tolist()), "it does not touch the border of its tile"
    assert beyond == BEYOND
    print(f"X1: {len(annotations) - len(beyond)} of {len(annotations)} polygons within 1 %, beyond: {beyond}")
