"""`microseg info`: what the engine sees in files, for people and for machines."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import tifffile


@pytest.fixture
def tagged(tmp_path):
    """A Zeiss TIFF whose entries disagree."""
    text = "\r\n0\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = 10 nm\r\nAP_PIXEL_SIZE\r\nPixel Size = 20 nm\r\n"
    image = np.random.default_rng(0).integers(3, 251, (60, 80), dtype=np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", image, extratags=[(34118, "s", 0, text, True)])
    return tmp_path / "a.tif"


def test_everything_is_said(tagged, microseg):
    ran = microseg("info", tagged)
    assert ran.code == 0
    for said in (
        "tiff, 60 x 80 px (height x width), 1 channel, uint8",
        "page 0 of 1",
        "pixel size (y x x): 0.01 x 0.01 um (Zeiss ap_image_pixel_size)",
        "pixel sizes disagree: Zeiss ap_image_pixel_size says 0.01 x 0.01 um, Zeiss ap_pixel_size says 0.02 x 0.02 um",
        "info bar: none",
        "intensity: 3 to 250",
    ):
        assert said in ran.out


def test_options_are_those_of_the_other_jobs(tagged, microseg):
    ran = microseg("info", tagged, "--source.info_bar", 10, "--source.pixel_size_um", 0.5)
    assert "info bar: 10 rows at the bottom (option info_bar)" in ran.out
    assert "0.5 x 0.5 um (option pixel_size_um)" in ran.out
    assert microseg("info", tagged, "--source.page", 3).code == 3


def test_bad_files_are_named_and_the_rest_is_shown(tagged, tmp_path, microseg):
    (tmp_path / "b.tif").write_bytes(b"")
    ran = microseg("info", tmp_path / "b.tif", tagged)
    assert ran.code == 3
    assert "the file is empty (0 bytes)" in ran.out
    assert "60 x 80 px" in ran.out
    ran = microseg("info", tmp_path / "b.tif", "--json")
    assert ran.code == 3
    assert json.loads(ran.out)["error"] == "the file is empty (0 bytes)"


def test_json_is_all_that_is_printed_whatever_libraries_print(tagged):
    """Python's print, a logger on standard output, and C code that writes to the descriptor."""
    code = (
        "import ctypes, os, sys\n"
        "from microseg_ray.sources.specimen import intensity\n"
        "genuine = intensity.intensity_range\n"
        "def noisy(micrograph):\n"
        "    print('a library'); sys.__stdout__.write('another'); os.write(1, b'C'); ctypes.CDLL(None).puts(b'libc')\n"
        "    return genuine(micrograph)\n"
        "intensity.intensity_range = noisy\n"
        "from microseg_ray.cli import main\n"
        f"sys.exit(main(['info', {str(tagged)!r}, '--json', {str(tagged)!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == [str(tagged)] * 2
    assert "a library" in done.stderr
    assert "C" in done.stderr


def test_json_of_a_file_whose_reader_warns(real_data):
    path = real_data / "faults" / "velox_warns.emd"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    command = [sys.executable, "-m", "microseg_ray.cli", "info", "--json", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert json.loads(done.stdout)["path"] == str(path)


def test_a_file_name_with_a_comma_is_one_file(tagged, tmp_path, microseg):
    names = [tmp_path / "a,b.tif", tmp_path / "[c].tif"]
    for name in names:
        name.write_bytes(tagged.read_bytes())
    ran = microseg("info", *names, "--json")
    assert ran.code == 0
    assert "error" not in ran.out
    assert all(str(name) in ran.out for name in names)
