"""Files of known formats that are not read are listed and named, with what to do; what is read says what it left out."""

from __future__ import annotations

import mrcfile
import numpy as np
import pytest
import tifffile
from PIL import Image

from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.settings import SourceSettings
from microseg_ray.sources import list_files, open_micrograph
from tests.format_files import UM, write_emd_ncem, write_mrc

GRAY = np.arange(30 * 20, dtype=np.uint16).reshape(30, 20)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
NAMED = {
    "a.tif": (LFS, "Git LFS pointer.*git lfs pull"),
    "a.dcm": (bytes(128) + b"DICM", "DICOM"),
    "a.lif": (b"\x70\0\0\0\1\2\3\4*\0", "Leica LIF.*Fiji"),
    "a.oib": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "OLE file .*Fiji"),
    "a.emi": (b"JK\0\x02" + bytes(90), r"TIA EMI.*\.ser"),
    "a.heic": (b"\0\0\0\x18ftypheic", "HEIC"),
    "a.jxl": (b"\xff\x0a", "JPEG XL"),
    "a.psd": (b"8BPS\0\1", "Photoshop"),
    "IM0001": (bytes(128) + b"DICM", "DICOM"),
    "IM.0002": (bytes(128) + b"DICM", "DICOM"),
}


def test_what_is_not_read_is_listed_and_named(tmp_path):
    for name, (content, _) in NAMED.items():
        (tmp_path / name).write_bytes(content)
    for name in ("README", "notes.txt", "a.hdr", "scan.001"):
        (tmp_path / name).write_text("words")
    assert sorted(path.name for path in list_files(tmp_path)) == sorted(NAMED)
    for name, (_, message) in NAMED.items():
        with pytest.raises(InputError, match=message):
            open_micrograph(tmp_path / name)


def test_an_image_without_a_suffix_is_found(tmp_path):
    tifffile.imwrite(tmp_path / "scan", GRAY)
    assert [path.name for path in list_files(tmp_path)] == ["scan"]


def test_an_emi_beside_its_series_is_no_image_of_its_own(tmp_path):
    for name in ("a.emi", "a_1.ser", "b.emi"):
        (tmp_path / name).touch()
    assert [path.name for path in list_files(tmp_path)] == ["a_1.ser", "b.emi"]


def test_a_png_named_jpg_is_read_and_reported(tmp_path):
    Image.fromarray(GRAY.astype(np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / "a.jpg")
    with open_micrograph(tmp_path / "a.jpg") as micrograph:
        assert micrograph.info.format == "png"
        assert micrograph.info.notes == ("the file is PNG although its name says JPEG; it is read as what it is",)


def test_pages_that_are_not_taken_are_named(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", np.stack([GRAY] * 3), photometric="minisblack")
    with open_micrograph(tmp_path / "a.tif", SourceSettings(page=1)) as micrograph:
        assert micrograph.info.notes == ("page 1 of pages 0 to 2 is used, the 2 others are not taken (source.page)",)


# --- the axes that a header names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", [(1, 2, 3), (2, 1, 3), (3, 2, 1), (2, 3, 1), (1, 3, 2), (3, 1, 2)])
def test_an_mrc_is_read_along_the_axes_that_it_names(tmp_path, order):
    volume = np.random.default_rng(0).integers(0, 99, (4, 6, 8), dtype=np.int16)  # z, y, x
    columns, rows, sections = order
    with mrcfile.new(tmp_path / "a.mrc") as file:
        file.set_data(np.ascontiguousarray(volume.transpose([3 - sections, 3 - rows, 3 - columns])))
        file.header.mapc, file.header.mapr, file.header.maps = order
        file.header.mx, file.header.my, file.header.mz = 8, 6, 4
        file.header.cella = (80, 120, 40)
    with open_micrograph(tmp_path / "a.mrc", SourceSettings(page=2)) as micrograph:
        assert (micrograph.info.shape, micrograph.info.parts.pages) == ((6, 8), 4)
        assert micrograph.info.pixel_size_um == pytest.approx((20e-4, 10e-4))
        np.testing.assert_array_equal(micrograph.read(Box(1, 2, 6, 8))[0], volume[2, 1:6, 2:8])


def test_an_mrc_without_a_stamp_and_with_a_placeholder(tmp_path):
    path = write_mrc(tmp_path / "a.mrc", GRAY, sized=False)
    with mrcfile.open(path, "r+") as file:
        file.voxel_size = 1.0
    content = bytearray(path.read_bytes())
    content[208:212] = bytes(4)
    path.write_bytes(content)
    with open_micrograph(path) as micrograph:
        assert micrograph.info.pixel_size_um is None
        assert "1 angstrom a pixel" in micrograph.info.pixel_size_notes[0]
        np.testing.assert_array_equal(micrograph.read(Box.of_shape((30, 20)))[0], GRAY)


def test_an_emd_is_read_along_the_axes_that_it_names(tmp_path):
    import h5py

    path = write_emd_ncem(tmp_path / "a.emd", GRAY)
    with h5py.File(path, "r+") as file:
        found = []
        file.visititems(lambda name, item: found.append(name) if name.endswith(("dim1", "dim2")) else None)
        one, two = sorted(found)
        names = [file[name].attrs["name"] for name in (one, two)]
        # The other order of the axes, and one of them backwards.
        for name, other in zip((one, two), reversed(names), strict=True):
            file[name].attrs["name"] = other
        backwards = one
        file[backwards][...] = file[backwards][...][::-1]
    with open_micrograph(path) as micrograph:
        whole = micrograph.read(Box.of_shape(micrograph.info.shape))[0]
        assert micrograph.info.shape == (20, 30)
        assert micrograph.info.pixel_size_um == pytest.approx((UM, UM))
        assert any("negative step" in note for note in micrograph.info.notes)
        np.testing.assert_array_equal(micrograph.read(Box(2, 3, 9, 14))[0], whole[2:9, 3:14])
    assert any(np.array_equal(whole, flipped) for flipped in (GRAY.T[::-1], GRAY.T[:, ::-1]))
