"""Real files of the field's formats: read as what they are, or refused by name with what to do."""

from __future__ import annotations

import json

import numpy as np
import pytest

from microseg_ray.cli import main
from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.sources import list_files, open_micrograph

# (height, width), channels, dtype, micrometres a pixel, pages
READ = {
    "cells-1.jp2": ((261, 185), 3, "uint8", None, 1),
    "test_image.czi": ((513, 639), 3, "uint8", None, 1),
    "EMD-3197.map": ((20, 20), 1, "float32", 0.00114, 20),
    "no_map_stamp.mrc": ((128, 128), 1, "float32", 0.0002, 3),
    "tia_int32.ser": ((128, 128), 1, "uint16", 0.005261, 1),
    "gatan_int32.dm3": ((68, 68), 1, "uint16", 0.168675, 1),
    "gatan_int32.tif": ((68, 68), 1, "uint16", 0.168675, 1),
    "velox_eds.emd": ((16, 16), 1, "uint16", 0.003599, 5),
    "velox_warns.emd": ((7, 7), 1, "float32", 0.0004, 416),
}


@pytest.mark.parametrize("name", READ)
def test_read(faults, name):
    shape, channels, dtype, um, pages = READ[name]
    with open_micrograph(faults / name) as micrograph:
        info = micrograph.info
        assert (info.shape, info.channels, info.dtype, info.parts.pages) == (shape, channels, dtype, pages)
        assert info.pixel_size_um == (None if um is None else pytest.approx((um, um), rel=1e-3))
        whole = micrograph.read(Box.of_shape(shape))
        assert np.ptp(whole) > 0
        np.testing.assert_array_equal(micrograph.read(Box(2, 1, 6, 7)), whole[:, 2:6, 1:7])
        assert any("not taken" in note for note in info.notes) == (pages > 1)


def test_the_two_gatan_files_hold_one_frame(faults):
    with open_micrograph(faults / "gatan_int32.dm3") as one, open_micrograph(faults / "gatan_int32.tif") as other:
        box = Box.of_shape(one.info.shape)
        np.testing.assert_array_equal(one.read(box), other.read(box))


def test_the_detector_goes_before_maps_of_elements(faults):
    with open_micrograph(faults / "velox_eds.emd") as micrograph:
        assert micrograph.info.parts.page_names == ("HAADF", "C", "Ca", "O", "Cu")
        assert "page 0 (HAADF)" in micrograph.info.notes[-1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("eels_spectrum_image.dm4", "holds a spectrum image of 2048 x 2 x 2 .* no micrograph; export"),
        ("tia.emi", r"a TIA EMI, which holds metadata only; name the \.ser file"),
    ],
)
def test_refused_by_name(faults, name, message):
    with pytest.raises(InputError, match=message):
        open_micrograph(faults / name)


def test_none_is_left_out_of_an_archive_without_a_word(faults):
    named = {path.name for path in list_files(faults)}
    assert {*READ, "eels_spectrum_image.dm4", "tia.emi", "multifile-Z1.ome.tiff", "fei_q90.jpg"} <= named


def test_nothing_but_json_is_printed(faults, capfd):
    assert main(["info", str(faults / "velox_warns.emd"), "--json"]) == 0
    out, err = capfd.readouterr()
    assert json.loads(out)["shape"] == [7, 7]
    assert err == ""
