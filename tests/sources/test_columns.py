"""`source.columns`: a part of the columns is the micrograph, whatever the format, and runs know of it."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from microseg_ray.errors import InputError, SettingsError
from microseg_ray.geometry import Box
from microseg_ray.settings import SegmentSettings, SourceSettings, load_settings
from microseg_ray.sources import open_micrograph, read_mask
from microseg_ray.sources.specimen.columns import column_range
from tests.format_files import write_fits

FRAME = np.random.default_rng(5).integers(0, 60_000, (60, 101), dtype=np.uint16)


@given(st.integers(2, 5000))
def test_the_halves_meet_and_leave_nothing_out(width):
    left, right = (column_range("a", side, width) for side in ("left_half", "right_half"))
    assert (left[0], left[1], right[1]) == (0, right[0], width)
    assert 0 <= (right[1] - right[0]) - (left[1] - left[0]) <= 1


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ("all", FRAME),
        ("left_half", FRAME[:, :50]),
        ("right_half", FRAME[:, 50:]),
        ((7, 8), FRAME[:, 7:8]),
        ((0, 101), FRAME),
    ],
)
@pytest.mark.parametrize("write", ["fits", "tiff"])
def test_the_columns_that_are_asked_for_are_read(tmp_path, columns, expected, write):
    path = tmp_path / f"a.{write}"
    if write == "fits":
        write_fits(path, FRAME)
    else:
        tifffile.imwrite(path, FRAME, tile=(16, 16))
    with open_micrograph(path, SourceSettings(columns=columns)) as micrograph:
        assert micrograph.info.shape == expected.shape
        assert (micrograph.read(Box.of_shape(expected.shape))[0] == expected).all()
        part = Box(3, 0, 9, expected.shape[1])
        assert (micrograph.read(part)[0] == expected[3:9]).all()


def test_columns_that_are_not_there_are_refused(tmp_path):
    path = write_fits(tmp_path / "a.fits", FRAME)
    with pytest.raises(InputError, match=r"asks for columns 90 to 101, and there are 101 \(0 to 100\)"):
        open_micrograph(path, SourceSettings(columns=(90, 102)))
    with pytest.raises(ValueError, match="give"):
        SourceSettings(columns=(9, 9))


@pytest.mark.parametrize(
    ("given", "expected"), [("right_half", "right_half"), ("[1024,2048]", (1024, 2048)), ("all", "all")]
)
def test_the_command_line_takes_them(given, expected):
    common = ["--archive", "a", "--checkpoint", "b", "--output", "c"]
    assert load_settings(SegmentSettings, [*common, "--source.columns", given]).source.columns == expected
    with pytest.raises(SettingsError, match="columns"):
        load_settings(SegmentSettings, [*common, "--source.columns", "middle"])


def test_a_frame_is_whole_by_default_and_a_half_on_request(microseg, checkpoint, tmp_path):
    """Acceptance C13: nothing is dropped, sections join to the frame, and a half is another run than the whole."""
    frame = np.random.default_rng(1).integers(-200, 20_000, (330, 610)).astype(np.int16)
    (tmp_path / "frames").mkdir()
    write_fits(tmp_path / "frames/a.fits", frame)
    write_fits(tmp_path / "frames/b.fits", frame.astype(np.float32) / 20_000)
    write_fits(tmp_path / "half.fits", frame[:, 305:].copy())
    common = ("--checkpoint", checkpoint, "--workers", 0, "--shard", 128, "--source.info_bar", "none")

    def segment(archive, output, *options):
        return microseg("segment", "--archive", archive, "--output", tmp_path / output, *common, *options)

    assert segment(tmp_path / "frames", "whole").code == 0
    for name in ("a.fits", "b.fits"):
        whole = read_mask(tmp_path / "whole/masks" / f"{name}.zarr")
        assert whole.shape == frame.shape
        assert (whole != 255).all()
    assert segment(tmp_path / "frames", "right", "--source.columns", "right_half").code == 0
    right = read_mask(tmp_path / "right/masks/a.fits.zarr")
    assert right.shape == (330, 305)
    assert segment(tmp_path / "half.fits", "cut").code == 0
    assert (right == read_mask(tmp_path / "cut/masks/half.fits.zarr")).all()
    mixed = segment(tmp_path / "frames", "whole", "--source.columns", "right_half")
    assert mixed.code == 1
    assert "results are never mixed" in mixed.err
    # The page and the overlays of the half show the half.
    assert microseg("measure", "--run", tmp_path / "right", "--overlays", 1, "--exports.write", "false").code == 0
    assert microseg("report", "--run", tmp_path / "right").code == 0
