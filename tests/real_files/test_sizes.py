"""The pixel size of real files, against what is known of them; the README beside the files has the truths."""

from __future__ import annotations

import pytest

from microseg_ray.sources import open_micrograph

UM = {
    "zeiss_512_columns.tif": 0.01165,
    "zeiss_1k.tif": 2.615,
    "zeiss_supra.tif": 0.007344,
    "fei_half.tif": 1.1656,
    "multifile-Z1.ome.tiff": None,
}


@pytest.mark.parametrize("name", UM)
def test_the_size_of_a_pixel(faults, name):
    with open_micrograph(faults / name) as micrograph:
        size = micrograph.info.pixel_size_um
    um = UM[name]
    assert size == (None if um is None else pytest.approx((um, um), rel=1e-3))


def test_the_stated_bar_of_a_halved_image_is_halved(faults):
    with open_micrograph(faults / "fei_half.tif") as micrograph:
        assert micrograph.info.info_bar_rows in {29, 30}
        (note,) = micrograph.info.pixel_size_notes
    assert "1024 x 884 or 943 px (width x height), the file has 512 x 472: it was resampled" in note
