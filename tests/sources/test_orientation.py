"""Images with an orientation tag are read as they are meant to be seen, by region, as micrograph and as mask."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from microseg_ray.geometry import Box
from microseg_ray.sources import open_micrograph, read_mask

STORED = np.random.default_rng(0).integers(0, 255, (40, 70), dtype=np.uint8)
SEEN = {
    1: STORED,
    2: STORED[:, ::-1],
    3: STORED[::-1, ::-1],
    4: STORED[::-1],
    5: STORED.T,
    6: np.rot90(STORED, -1),
    7: np.rot90(STORED, 2).T,
    8: np.rot90(STORED),
}


def exif(orientation):
    tags = Image.Exif()
    tags[274] = orientation
    return tags


def write(path, orientation):
    match path.suffix:
        case ".tif":
            tag = [(274, "H", 1, orientation, True)]
            tifffile.imwrite(path, STORED, tile=(16, 16), compression="zlib", extratags=tag, metadata=None)
        case ".webp":
            Image.fromarray(np.dstack([STORED] * 3)).save(path, lossless=True, exif=exif(orientation))
        case _:
            Image.fromarray(STORED).save(path, exif=exif(orientation), quality=100)
    return path


@pytest.mark.parametrize("orientation", SEEN)
@pytest.mark.parametrize("name", ["a.tif", "a.png", "a.jpg", "a.webp"])
def test_an_image_is_read_as_it_is_to_be_seen(tmp_path, name, orientation):
    seen = SEEN[orientation]
    with open_micrograph(write(tmp_path / name, orientation)) as micrograph:
        info = micrograph.info
        assert (info.shape, info.lazy) == (seen.shape, name == "a.tif")
        loss = 3 if name == "a.jpg" else 0
        for box in (Box.of_shape(info.shape), Box(5, 3, 31, 38)):
            np.testing.assert_allclose(micrograph.read(box)[0].astype(int), seen[box.slices], atol=loss)
        assert any("orientation tag" in note for note in info.notes) == (orientation != 1)


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
@pytest.mark.parametrize("orientation", [3, 6])
def test_a_mask_goes_the_same_way(tmp_path, name, orientation):
    np.testing.assert_array_equal(read_mask(write(tmp_path / name, orientation)), SEEN[orientation])


def test_a_turned_image_has_its_pixel_size_turned(tmp_path):
    path = tmp_path / "a.tif"
    tag = [(274, "H", 1, 6, True)]
    tifffile.imwrite(path, STORED, extratags=tag, resolution=(20_000, 40_000), resolutionunit=3, metadata=None)
    with open_micrograph(path) as micrograph:
        assert micrograph.info.pixel_size_um == pytest.approx((0.5, 0.25))
