"""The pixel size: every vendor's entry, its unit and its provenance; who goes first; what disagrees is said."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from microseg_ray.errors import InputError
from microseg_ray.settings import SourceSettings
from microseg_ray.sources import open_micrograph
from microseg_ray.sources.scale.pixel_size import PixelSize, apart, best_of, micrometres
from microseg_ray.sources.scale.provenance import pixel_size_mark
from microseg_ray.sources.scale.table import TableRow, read_pixel_sizes, row_for

IMAGE = np.random.default_rng(0).integers(0, 255, (60, 80), dtype=np.uint8)
FEI = "[User]\r\nDate=01/02/2019\r\n[Beam]\r\nBeam=EBeam\r\n[EBeam]\r\nHFW=1.6e-05\r\n[Image]\r\nResolutionX=80\r\n"
FEI += "ResolutionY={rows}\r\n"
SCAN = "[Scan]\r\nPixelWidth=2e-07\r\nPixelHeight=3e-07\r\n"
ZEISS = "\r\n0\r\nAP_WD\r\nWD = 5.6 mm\r\nAP_IMAGE_PIXEL_SIZE\r\nImage Pixel Size = {image}\r\n"
TESCAN = b"\xff\xd8junk\xff\xd9\x00AccFrames=1\r\nImageStripSize=10\r\nPixelSizeX=2.5e-08\r\nPixelSizeY=5e-08\r\n"
PHENOM = (
    '<?xml version="1.0"?><FeiImage><pixelWidth unit="nm">40</pixelWidth><pixelHeight unit="nm">50</pixelHeight>'
    "<databarHeight>12</databarHeight></FeiImage>"
)


def write(path, tags=(), **options):
    extra = [
        (code, "s" if isinstance(value, str) else "B", 0 if isinstance(value, str) else len(value), value, True)
        for code, value in tags
    ]
    tifffile.imwrite(path, IMAGE, extratags=extra, **options)
    return path


def seen(path, **options):
    with open_micrograph(path, SourceSettings(**options)) as micrograph:
        return micrograph.info


@pytest.mark.parametrize(
    ("tags", "size", "source", "bar", "bar_source"),
    [
        ([(34682, FEI.format(rows=60) + SCAN)], (0.3, 0.2), "FEI Scan.PixelWidth", 0, ""),
        ([(34682, FEI.format(rows=50) + SCAN)], (0.3, 0.2), "FEI Scan.PixelWidth", 10, "FEI Image.ResolutionY"),
        ([(34680, FEI.format(rows=60) + SCAN.replace("[Scan]", "[EScan]"))], (0.3, 0.2), "FEI EScan.PixelWidth", 0, ""),
        ([(34682, FEI.format(rows=60))], (0.2, 0.2), "FEI EBeam.HFW / Image.ResolutionX", 0, ""),
        (
            [(34682, SCAN + "[PrivateFei]\r\nDatabarHeight=14\r\n")],
            (0.3, 0.2),
            "FEI Scan.PixelWidth",
            14,
            "FEI PrivateFei.DatabarHeight",
        ),
        (
            [(34682, FEI.format(rows=60) + SCAN + "[PrivateFei]\r\nDatabarHeight=14\r\n")],
            (0.3, 0.2),
            "FEI Scan.PixelWidth",
            0,
            "FEI Image.ResolutionY",
        ),
        ([(34118, ZEISS.format(image="558.2 pm"))], (5.582e-4, 5.582e-4), "Zeiss ap_image_pixel_size", 0, ""),
        ([(34118, ZEISS.format(image="12.5 nm"))], (0.0125, 0.0125), "Zeiss ap_image_pixel_size", 0, ""),
        ([(50431, TESCAN)], (0.05, 0.025), "TESCAN PixelSizeX", 10, "TESCAN ImageStripSize"),
        ([(34683, PHENOM)], (0.05, 0.04), "Phenom pixelWidth", 12, "Phenom databarHeight"),
    ],
)
def test_vendor_tags(tmp_path, tags, size, source, bar, bar_source):
    info = seen(write(tmp_path / "a.tif", tags))
    assert info.pixel_size_um == pytest.approx(size, rel=1e-9)
    assert (info.pixel_size_source, info.info_bar_rows, info.info_bar_source) == (source, bar, bar_source)


def test_tags_that_make_no_sense_state_nothing(tmp_path):
    broken = [
        (34682, "[Scan]\r\nPixelWidth=wide\r\n[Image]\r\nResolutionY=-\r\n"),
        (50431, b"PixelSizeX=0\nImageStripSize=1e9\n"),
    ]
    info = seen(write(tmp_path / "a.tif", broken))
    assert (info.pixel_size_um, info.pixel_size_source, info.info_bar_rows) == (None, "", 0)


JEOL = "$SEM_DATA_VERSION 1\n$CM_FULL_SIZE {width} {rows}\n$$SM_MICRON_BAR 40\n$$SM_MICRON_MARKER {marker}\n"


@pytest.mark.parametrize(
    ("name", "text", "size", "source", "bar"),
    [
        ("a.txt", JEOL.format(width=80, rows=48, marker="10um"), 0.25, "JEOL $$SM_MICRON_BAR (a.txt)", 12),
        ("a.txt", JEOL.format(width=80, rows=60, marker="100nm"), 0.0025, "JEOL $$SM_MICRON_BAR (a.txt)", 0),
        (
            "a.txt",
            JEOL.format(width=80, rows=60, marker="10µm").encode("latin-1"),
            0.25,
            "JEOL $$SM_MICRON_BAR (a.txt)",
            0,
        ),
        ("a.tif.txt", "$CM_MAG 5000\n$CM_PIXEL_SIZE 24.8nm\n", 0.0248, "JEOL $CM_PIXEL_SIZE (a.tif.txt)", 0),
        ("a.txt", "[SemImageFile]\nPixelSize=49.60938\nDataSize=80x60\n", 0.04960938, "Hitachi PixelSize (a.txt)", 0),
        ("a.txt", "[SemImageFile]\r\nPixelSize=50\r\n".encode("utf-16"), 0.05, "Hitachi PixelSize (a.txt)", 0),
        (
            "a-tif.hdr",
            "[MAIN]\nImageStripSize=9\nPixelSizeX=1e-7\nPixelSizeY=1e-7\n",
            0.1,
            "TESCAN PixelSizeX (a-tif.hdr)",
            9,
        ),
    ],
)
def test_sidecars(tmp_path, name, text, size, source, bar):
    path = write(tmp_path / "a.tif")
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    info = seen(path)
    assert info.pixel_size_um == pytest.approx((size, size))
    assert (info.pixel_size_source, info.info_bar_rows, info.pixel_size_notes) == (source, bar, ())


@pytest.mark.parametrize("text", ["notes of the operator: PixelSize was 5", "", "$CM_PIXEL_SIZE 24.8", "\0" * 50])
def test_other_texts_say_nothing(tmp_path, text):
    path = write(tmp_path / "a.tif")
    (tmp_path / "a.txt").write_text(text)
    assert seen(path).pixel_size_um is None


@pytest.mark.parametrize("text", [JEOL.format(width=160, rows=99, marker="10um"), "PixelSize=50\nDataSize=160x99\n"])
def test_a_sidecar_of_an_image_of_other_proportions_is_not_believed(tmp_path, text):
    path = write(tmp_path / "a.tif")
    (tmp_path / "a.txt").write_text(text)
    info = seen(path)
    assert info.pixel_size_um is None
    (note,) = info.pixel_size_notes
    assert "(a.txt) is for an image of 160 x 99" in note
    assert "the file has 80 x 60" in note
    assert "not used, because cropping and resizing cannot be told apart" in note


@pytest.mark.parametrize("text", [JEOL.format(width=160, rows=120, marker="10um"), "PixelSize=250\nDataSize=160x120\n"])
def test_a_sidecar_of_the_image_before_it_was_halved_is_corrected(tmp_path, text):
    path = write(tmp_path / "a.tif")
    (tmp_path / "a.txt").write_text(text)
    info = seen(path)
    assert info.pixel_size_um == pytest.approx((0.5, 0.5))
    assert "it was resampled, and a pixel is 0.5 x 0.5 um" in info.pixel_size_notes[0]


def test_disagreement_is_said_and_the_more_trustworthy_wins(tmp_path):
    text = ZEISS.format(image="10 nm") + "AP_PIXEL_SIZE\r\nPixel Size = 20 nm\r\n"
    info = seen(write(tmp_path / "a.tif", [(34118, text)]))
    assert info.pixel_size_um == (0.01, 0.01)
    claims = "Zeiss ap_image_pixel_size says 0.01 x 0.01 um, Zeiss ap_pixel_size says 0.02 x 0.02 um"
    assert info.pixel_size_notes == (f"pixel sizes disagree: {claims}; Zeiss ap_image_pixel_size is used",)


def test_a_sidecar_goes_after_the_tags_but_before_resolution_tags(tmp_path):
    tagged = write(tmp_path / "a.tif", [(34682, SCAN)])
    plain = write(tmp_path / "b.tif", resolution=(1e6, 1e6), resolutionunit="CENTIMETER")
    assert seen(plain).pixel_size_source == "TIFF XResolution per cm"
    for path in (tagged, plain):
        path.with_suffix(".txt").write_text("PixelSize=500\n")
    assert seen(tagged).pixel_size_source == "FEI Scan.PixelWidth"
    assert "Hitachi PixelSize (a.txt) says 0.5 x 0.5 um" in seen(tagged).pixel_size_notes[0]
    assert seen(plain).pixel_size_source == "Hitachi PixelSize (b.txt)"
    assert "TIFF XResolution per cm says 0.01 x 0.01 um" in seen(plain).pixel_size_notes[0]


def test_the_table_and_the_option_go_before_the_file(tmp_path):
    path = write(tmp_path / "a.tif", [(34682, SCAN)])
    table = tmp_path / "sizes.csv"
    table.write_text("pattern,um_per_pixel,um_per_pixel_y\nother*,9,\n*.tif,0.205,0.305\n")
    info = seen(path, pixel_sizes=str(table))
    assert (info.pixel_size_um, info.pixel_size_source, info.pixel_size_notes) == (
        (0.305, 0.205),
        "table *.tif (line 3)",
        (),
    )
    table.write_text("pattern,um_per_pixel\na.tif,0.4\n")
    assert (
        "table a.tif (line 2) says 0.4 x 0.4 um, FEI Scan.PixelWidth says 0.3 x 0.2 um"
        in seen(path, pixel_sizes=str(table)).pixel_size_notes[0]
    )
    info = seen(path, pixel_sizes=str(table), pixel_size_um=(1, 2))
    assert (info.pixel_size_um, info.pixel_size_source, len(info.pixel_size_notes)) == (
        (1, 2),
        "option pixel_size_um",
        2,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: its columns are missing"),
        ("name,um\n*,1\n", r"line 1: its columns are name, um; .*pattern,um_per_pixel"),
        ("pattern,um_per_pixel,unit\n*,1,nm\n", r"line 1: its columns are pattern, um_per_pixel, unit"),
        ("pattern,um_per_pixel\n*,1\na*,\n", r"line 3: um_per_pixel is ''"),
        ("pattern,um_per_pixel\n*,-1\n", r"line 2: um_per_pixel is '-1'"),
        ("pattern,um_per_pixel\n*,1,2\n", r"line 2: it has more values"),
        ("pattern,um_per_pixel\n,1\n", r"line 2: pattern is empty"),
        ("pattern,um_per_pixel,um_per_pixel_y\n*,1,5 nm\n", r"line 2: um_per_pixel_y is '5 nm'"),
    ],
)
def test_a_damaged_table_is_named_with_its_line(tmp_path, text, message):
    (tmp_path / "sizes.csv").write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_pixel_sizes(tmp_path / "sizes.csv")
    assert str(tmp_path / "sizes.csv") in str(caught.value)


def test_a_missing_table_and_one_that_is_no_text(tmp_path):
    with pytest.raises(InputError, match="no such table"):
        read_pixel_sizes(tmp_path / "sizes.csv")
    (tmp_path / "sizes.csv").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(InputError, match="UTF-8"):
        read_pixel_sizes(tmp_path / "sizes.csv")


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("a.tif", "/x/a.tif", True),
        ("a.tif", "/x/ba.tif", False),
        ("2019/*", "/x/2019/deep/a.tif", True),
        ("2019/*", "/x/12019/a.tif", False),
        ("run #2 (a)/[1].png", "/x/run #2 (a)/[1].png", True),
        ("*.TIF", "/x/a.tif", False),
        ("/x/a.tif", "/x/a.tif", True),
    ],
)
def test_patterns(pattern, path, fits):
    assert TableRow(pattern, 1, 1, 2).fits(path) == fits


def test_the_first_line_that_fits_counts(tmp_path):
    (tmp_path / "sizes.csv").write_text("\ufeffpattern, um_per_pixel\n\na.tif, 1\n*, 2\n", encoding="utf-8")
    assert [row_for(f"/x/{name}", tmp_path / "sizes.csv").x for name in ("a.tif", "b.tif")] == [1, 2]


def test_the_mark_changes_with_table_and_sidecar(tmp_path):
    path = str(write(tmp_path / "a.tif"))
    source = SourceSettings(pixel_sizes=str(tmp_path / "sizes.csv"))
    (tmp_path / "sizes.csv").write_text("pattern,um_per_pixel\nother.tif,1\n")
    marks = [pixel_size_mark(path, source, "content")]
    (tmp_path / "sizes.csv").write_text("pattern,um_per_pixel\na*,1\n")
    marks.append(pixel_size_mark(path, source, "content"))
    for text in ("PixelSize=50\n", "PixelSize=60\n"):
        (tmp_path / "a.txt").write_text(text)
        marks.append(pixel_size_mark(path, source, "content"))
    assert marks[0] == ""
    assert len(set(marks)) == 4


UNITS = {"pm": -12, "nm": -9, "um": -6, "µm": -6, "mm": -3, "cm": -2, "m": 0}


@given(st.floats(1e-3, 1e3), st.sampled_from(sorted(UNITS)))
def test_units_are_powers_of_ten(value, unit):
    assert micrometres(value, unit) == pytest.approx(value * 10.0 ** (UNITS[unit] + 6))
    assert micrometres(value, "inch") == pytest.approx(value * 25400)


SIZES = st.builds(PixelSize, st.floats(1e-3, 1e2), st.floats(1e-3, 1e2), st.sampled_from("ABC"))


@given(st.lists(st.none() | SIZES, max_size=5))
def test_the_first_claim_wins_and_each_other_one_is_noted(claims):
    best, said = best_of(claims), [claim for claim in claims if claim is not None]
    if not said:
        assert best is None
        return
    assert (best.y, best.x, best.source) == (said[0].y, said[0].x, said[0].source)
    off = [other for other in said[1:] if apart((best.y, best.x), (other.y, other.x)) > 0.05]
    assert len(best.notes) == len({(other.source, str(other)) for other in off})


def test_info_is_plain_json(tmp_path, microseg):
    path = write(tmp_path / "a.tif", [(34682, FEI.format(rows=50) + SCAN)])
    ran = microseg("info", path, "--json")
    assert ran.code == 0
    printed = json.loads(ran.out)
    assert printed["pixel_size_um"] == pytest.approx([0.3, 0.2])
    assert (printed["info_bar_rows"], printed["shape"], printed["pages"]) == (10, [60, 80], 1)
    assert (printed["intensity_low"], printed["intensity_high"]) == (IMAGE[:50].min(), IMAGE[:50].max())
