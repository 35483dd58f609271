"""Info bars of real files that were not found at first: `shared/data/faults/README.md` has the truths."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from microseg_ray.geometry import Box
from microseg_ray.settings import Scaling
from microseg_ray.sources import open_micrograph, open_prepared
from microseg_ray.sources.specimen.info_bar import find_info_bar

# Rows from the upper edge of the bar to the bottom, rows of specimen below the bar included.
BARS = {
    "zeiss_512_columns.tif": 34,
    "zeiss_1k.tif": 77,
    "zeiss_supra.tif": 56,
    "fei_q90.jpg": 59,
    "fei_half.tif": 29.5,
}
CLOSE = 2  # rows


@pytest.mark.parametrize(("name", "rows"), BARS.items())
def test_the_bar_is_found_and_the_micrograph_is_gray(faults, name, rows):
    with open_prepared(faults / name, Scaling()) as micrograph:
        assert abs(micrograph.info.info_bar_rows - rows) <= CLOSE
        assert micrograph.info.channels == 1
        assert micrograph.read(micrograph.info.specimen).shape[0] == 1


@pytest.mark.parametrize(("name", "rows"), BARS.items())
@pytest.mark.parametrize(("size", "quality"), [(1, 75), (1, 60), (0.5, 0), (0.5, 75), (2, 75)])
def test_the_bar_is_found_after_resizing_and_compression(faults, name, rows, size, quality):
    if (name, size) == ("fei_half.tif", 0.5):
        pytest.skip("a bar of 15 rows, whose text is 4 rows high: beyond what is promised")
    with open_micrograph(faults / name) as micrograph:
        image = Image.fromarray(micrograph.read(Box.of_shape(micrograph.info.shape))[0])
    image = image.resize((round(image.width * size), round(image.height * size)), Image.Resampling.BICUBIC)
    if quality:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        image = Image.open(buffer)
    pixels = np.asarray(image)[None]
    seen = find_info_bar(lambda box: pixels[(slice(None), *box.slices)], pixels.shape[1:])
    assert abs(seen - rows * size) <= CLOSE


def test_without_its_bar_none_is_found(faults):
    for name, rows in BARS.items():
        with open_micrograph(faults / name) as micrograph:
            height, width = micrograph.info.shape
            pixels = micrograph.read(Box(0, 0, height - int(rows) - 2, width))
        assert find_info_bar(lambda box: pixels[(slice(None), *box.slices)], pixels.shape[1:]) == 0, name  # noqa: B023
