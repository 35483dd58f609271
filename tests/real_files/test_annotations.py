"""Annotations that were made with real programs and gave no mask at first."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from PIL import Image

from microseg_ray.sources.masks import read_mask


@pytest.mark.parametrize(
    ("annotation", "image", "regions"),
    [("roi_auto_names.zip", "roi_auto_names.png", 13), ("via_no_attributes.json", "img (1).png", 3)],
)
def test_regions_without_a_class_name_the_option_that_maps_them(faults, tmp_path, microseg, annotation, image, regions):
    options = ("--images", faults / image, "--annotations", faults / annotation, "--classes", '["rest","cell"]')
    done = microseg("annotate", *options, "--output", tmp_path / "none")
    assert done.code == 3
    assert f"none of its {regions} regions was drawn" in done.out
    assert "--default_class" in done.out
    done = microseg("annotate", *options, "--output", tmp_path / "all", "--default_class", "cell")
    assert done.code == 0, done.out + done.err
    assert 0 < np.mean(read_mask(tmp_path / "all" / image) == 1) < 0.9


def test_a_geometry_without_a_feature_is_read(faults, tmp_path, microseg):
    (tmp_path / "images").mkdir()
    Image.fromarray(np.zeros((16, 16), np.uint8)).save(tmp_path / "images" / "bare_geometry.png")
    shutil.copy(faults / "bare_geometry.geojson", tmp_path)
    for number, chosen in enumerate(("auto", "geojson")):
        options = ("--images", tmp_path / "images", "--annotations", tmp_path / "bare_geometry.geojson")
        options += ("--classes", '["rest","cell"]', "--format", chosen, "--default_class", "cell")
        done = microseg("annotate", *options, "--output", tmp_path / f"masks{number}")
        assert done.code == 0, done.out + done.err
        # The triangle (1, 1), (9, 1), (9, 9), by the centres of pixels.
        assert (read_mask(tmp_path / f"masks{number}" / "bare_geometry.png") == 1).sum() == 36
