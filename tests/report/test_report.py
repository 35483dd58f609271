"""The page of a run: its numbers are the given ones, it loads nothing, and no file name can break it."""

import base64
import io
import re
from dataclasses import asdict
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microseg_ray.report import Panel, RunReport, scale_bar_um, thumbnail, write_run_report
from microseg_ray.settings import ClassSpec

CLASSES = (ClassSpec(name="matrix", color="#202020"), ClassSpec(name="pore", color="#e69f00"))
HOSTILE = "<script>alert(1)</script>\"'><img src=http://evil.example/x onerror=alert(2)>&amp;.tif"


class Page(HTMLParser):
    """Elements with their attributes, and table rows as lists of (text, data-value)."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.rows, self._cell, self.text = [], [], None, ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.elements.append((tag, attributes))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self._cell = ["", attributes.get("data-value")]
            self.rows[-1].append(self._cell)

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._cell = None

    def handle_data(self, data):
        self.text += data
        if self._cell is not None:
            self._cell[0] += data

    def of(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def area(micrograph="a.tif", name="pore", count=1234567, fraction=0.123456789, **more):
    return {"micrograph": micrograph, "class": name, "pixel_count": count, "area_fraction": fraction, **more}


def panel(name="a.tif", pixel_size_um=(0.5, 0.5), shape=(20, 30)):
    image = np.arange(np.prod(shape), dtype=np.uint16).reshape(shape)
    mask = (np.arange(np.prod(shape)) % 2).astype(np.uint8).reshape(shape)
    return Panel(name, image, mask, CLASSES, pixel_size_um)


def render(tmp_path, report):
    path = tmp_path / "report.html"
    write_run_report(path, report)
    assert [item.name for item in tmp_path.iterdir()] == ["report.html"]
    text = path.read_text("utf-8")
    return text, Page(text)


def row_of(page, *texts):
    (row,) = [row for row in page.rows if [cell[0].strip() for cell in row[: len(texts)]] == list(texts)]
    return row


@settings(max_examples=15, deadline=None)
@given(
    count=st.integers(0, 2**40),
    fraction=st.floats(0, 1),
    area_um2=st.floats(0, 1e12),
    share=st.floats(0, 1),
    truth=st.floats(0, 1),
)
def test_numbers_are_the_given_ones(tmp_path_factory, count, fraction, area_um2, share, truth):
    given_row = area(
        count=count, fraction=fraction, area_um2=area_um2, measured_share=share, pixel_size_um=(0.25, 0.25)
    )
    _, page = render(
        tmp_path_factory.mktemp("page"), RunReport("t", areas=[given_row], truth={("a.tif", "pore"): truth})
    )
    row = row_of(page, "a.tif", "pore")
    values = [cell[1] for cell in row]
    assert int(values[2]) == count
    assert [float(value) for value in values[3:8]] == [share, fraction, truth, fraction - truth, area_um2]
    shown = [cell[0].replace("\N{MINUS SIGN}", "-") for cell in row]
    assert shown[2] == str(count)
    expected = [f"{100 * share:.2f}", f"{100 * fraction:.3f}", f"{100 * truth:.3f}", f"{100 * (fraction - truth):+.3f}"]
    assert shown[3:7] == expected
    assert shown[7:] == [f"{area_um2:.2f}", "0.25"]


def test_class_summary_counts_every_micrograph_once(tmp_path):
    rows = [area("a", fraction=0.1), area("b", fraction=0.3), area("c", fraction=float("nan")), area("d", fraction=0.2)]
    _, page = render(tmp_path, RunReport("t", areas=rows, truth={("a", "pore"): 0.15}))
    values = [float(value) for _, value in row_of(page, "pore")[1:]]
    assert values == pytest.approx([3, 0.2, 0.1, 0.1, 0.3, 0.05])


def test_nothing_is_loaded_from_anywhere(tmp_path):
    text, page = render(
        tmp_path,
        RunReport(HOSTILE, {"url": "https://evil.example"}, [area(HOSTILE)], [{"path": HOSTILE}], [panel(HOSTILE)]),
    )
    for tag, attributes in page.elements:
        for key in ("src", "href", "action", "srcset", "data"):
            value = attributes.get(key)
            assert value is None or value.startswith(("data:image/", "#")), (tag, key, value)
    # The script makes addresses of thumbnails from the rows alone, and here is none.
    assert "url(" not in text.partition("<script>")[0]
    assert "thumbnails/" not in text
    assert "@import" not in text
    assert {tag for tag, _ in page.elements}.isdisjoint({"link", "iframe", "object", "embed", "base"})


def test_no_text_becomes_markup(tmp_path):
    report = RunReport(
        HOSTILE,
        {HOSTILE: HOSTILE, "verdict": HOSTILE},
        [area(HOSTILE, HOSTILE)],
        [{"path": HOSTILE, "stage": HOSTILE, "reason": HOSTILE}],
        [Panel(HOSTILE, np.zeros((4, 4)), np.zeros((4, 4), np.uint8), (ClassSpec(name=HOSTILE),), None)],
        {(HOSTILE, HOSTILE): 0.5},
    )
    text, page = render(tmp_path, report)
    assert len(page.of("script")) == 1
    assert len(page.of("img")) == 3
    assert not any(key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert "<script>alert" not in text
    assert page.text.count(HOSTILE) >= 8  # read back as it was given


def test_a_file_name_that_is_not_utf8_is_shown_as_far_as_it_goes(tmp_path):
    _, page = render(tmp_path, RunReport("t", areas=[area("caf\udce9.tif")]))
    assert "caf?.tif" in page.text


def test_without_a_pixel_size_there_is_no_physical_unit(tmp_path):
    rows = [area(area_um2=None, pixel_size_um=None), area("b", area_um2=float("nan"), pixel_size_um="")]
    text, page = render(tmp_path, RunReport("t", areas=rows, panels=[panel(pixel_size_um=None)]))
    assert not any(unit in text for unit in ("µm", "um²", "nm</", "mm</"))
    assert "No micrograph has a known pixel size" in page.text
    assert not [attributes for attributes in page.of("div") if attributes.get("class") == "bar"]


def test_of_micrographs_with_and_without_pixel_size_only_those_with_have_areas(tmp_path):
    rows = [area(area_um2=7.0, pixel_size_um=(0.5, 0.25)), area("b", area_um2=None, pixel_size_um=None)]
    _, page = render(tmp_path, RunReport("t", areas=rows))
    assert [cell[0] for cell in row_of(page, "a.tif", "pore")][-2:] == ["7.00", "0.5 x 0.25 (y, x)"]
    assert [cell[0] for cell in row_of(page, "b", "pore")][-2:] == ["–", "–"]  # noqa: RUF001
    assert "1 of 2 micrographs has no known pixel size" in page.text


def test_rows_of_the_areas_table_can_be_shown_as_they_are(tmp_path):
    from microseg_ray.statistics.areas import Measured, area_rows

    rows = []
    for name, size in (("a.tif", (0.5, 0.25)), ("b.tif", None)):
        measured = Measured(name, np.array([30, 10]), size, "OME PhysicalSizeX" if size else "", "0" * 64)
        rows += [asdict(row) for row in area_rows(measured, CLASSES)]
    _, page = render(tmp_path, RunReport("t", areas=rows))
    shown = [cell[0] for cell in row_of(page, "a.tif", "pore")]
    assert shown[2:] == ["10", "40", "25.000", "1.25", "0.5 x 0.25 (y, x)"]
    assert [cell[0] for cell in row_of(page, "b.tif", "pore")][2:] == ["10", "40", "25.000", *2 * "–"]  # noqa: RUF001


def test_an_empty_run_is_a_page(tmp_path):
    text, page = render(tmp_path, RunReport("Nothing"))
    assert "No micrograph was measured" in page.text
    assert not page.of("table")
    assert not page.of("img")
    assert text.startswith("<!doctype html>")


def test_quarantined_inputs_and_identity_are_listed(tmp_path):
    digest = "0123456789abcdef" * 4
    identity = {"model": digest, "verdict": "bounded: 3 of 1000 pixels flip", "settings": "a: 1\nb: 2"}
    failures = [{"path": "x.tif", "stage": "read", "reason": "truncated"}]
    _, page = render(tmp_path, RunReport("t", identity, failures=failures))
    assert [cell[0] for cell in row_of(page, "x.tif")] == ["x.tif", "read", "truncated"]
    assert digest[:12] in [cell.split()[0] for cell in (row_of(page, "model")[1][0],)]
    assert digest in page.text
    assert "badge bounded" in [attributes.get("class") for attributes in page.of("span")]
    assert "1 input was not measured" in page.text
    assert page.of("details")


def test_panels_hold_the_pictures(tmp_path):
    image = np.tile(np.arange(100, dtype=np.float32), (50, 1))
    mask = np.zeros((50, 100), np.uint8)
    mask[:25], mask[40:] = 1, 255
    _, page = render(tmp_path, RunReport("t", panels=[Panel("a.tif", image, mask, CLASSES, (2.0, 1.0))]))
    pictures = page.of("img")
    assert all(item["alt"].startswith("a.tif: ") for item in pictures)
    decoded = [Image.open(io.BytesIO(base64.b64decode(item["src"].split(",")[1]))) for item in pictures]
    assert [item.size for item in decoded] == [(100, 50)] * 3
    colors = np.asarray(decoded[1].convert("RGB"))
    assert {tuple(row) for row in colors.reshape(-1, 3).tolist()} == {(0xE6, 0x9F, 0), (0x20,) * 3, (0xB9, 0xB9, 0xC4)}
    np.testing.assert_array_equal((colors == (0xE6, 0x9F, 0)).all(axis=-1), mask == 1)
    frame, *_ = [item["style"] for item in page.of("div") if item.get("class") == "frame"]
    assert frame == "aspect-ratio:100 / 100"  # pixels twice as high as wide
    assert [item["style"] for item in page.of("i")] == ["width:20%"] * 3
    assert "20 µm" in page.text
    assert "not measured" in page.text


def test_tables_have_header_scopes_and_links_lead_somewhere(tmp_path):
    _, page = render(tmp_path, RunReport("t", areas=[area()], panels=[panel()], failures=[{"path": "x"}]))
    assert {item.get("scope") for item in page.of("th")} == {"row", "col"}
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {item["href"][1:] for item in page.of("a")} == {"panel-1", "failures"} <= set(ids)


def test_the_same_report_gives_the_same_bytes(tmp_path):
    report = RunReport("t", areas=[area()], panels=[panel()])
    for name in ("a.html", "b.html"):
        write_run_report(tmp_path / name, report)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize("key", ["micrograph", "class", "pixel_count", "area_fraction"])
def test_a_row_without_a_needed_key_is_refused_and_the_old_page_stays(tmp_path, key):
    page = tmp_path / "report.html"
    page.write_text("old")
    row = area()
    del row[key]
    with pytest.raises(ValueError, match=f"areas, row 0: the key '{key}' is missing"):
        write_run_report(page, RunReport("t", areas=[row]))
    assert page.read_text() == "old"


@pytest.mark.parametrize(
    ("image", "mask", "message"),
    [
        (np.zeros((2, 4, 4)), np.zeros((4, 4), np.uint8), "is not"),
        (np.zeros((4, 4)), np.zeros((4, 5), np.uint8), "must be uint8"),
        (np.zeros((4, 4)), np.zeros((4, 4), np.int64), "must be uint8"),
        (np.zeros((0, 4)), np.zeros((0, 4), np.uint8), "not empty"),
        (np.zeros((4, 4)), np.full((4, 4), 2, np.uint8), "mask value 2 is none of 2 classes"),
    ],
)
def test_panels_that_do_not_fit_are_refused(image, mask, message):
    with pytest.raises(ValueError, match=message):
        Panel("a.tif", image, mask, CLASSES, None)


@pytest.mark.parametrize("image", [np.full((3, 4, 4), 7, np.uint8), np.full((1, 4, 4), 7.5), np.zeros((1, 1))])
def test_flat_and_colour_images_can_be_shown(tmp_path, image):
    mask = np.zeros(image.shape[-2:], np.uint8)
    _, page = render(tmp_path, RunReport("t", panels=[Panel("a", image, mask, CLASSES, (1e-4, 1e-4))]))
    assert len(page.of("img")) == 3


@given(width=st.integers(1, 10**6), pixel_size=st.floats(1e-6, 1e4))
def test_scale_bars_are_round_and_fit(width, pixel_size):
    length = scale_bar_um(width, pixel_size)
    assert re.fullmatch(r"[125](\.0+)?e[+-]\d+", f"{length:.3e}")
    assert 0.0999 <= length / (width * pixel_size) <= 0.2501


@pytest.mark.parametrize(("width", "size"), [(0, 1.0), (10, 0.0), (10, -1.0), (10, float("nan")), (10, float("inf"))])
def test_scale_bars_need_a_size(width, size):
    with pytest.raises(ValueError, match="scale bar"):
        scale_bar_um(width, size)


def naive_thumbnail(pixels, longest, labels):
    """Square by square, from the whole micrograph."""
    channels, height, width = pixels.shape
    step = -(-max(height, width) // longest)
    result = np.zeros((channels, -(-height // step), -(-width // step)), pixels.dtype)
    for channel, y, x in np.ndindex(result.shape):
        square = pixels[channel, y * step : (y + 1) * step, x * step : (x + 1) * step]
        if labels:
            counts = np.bincount(square.ravel(), minlength=256)[:255]
            result[channel, y, x] = counts.argmax() if counts.any() else 255
        elif pixels.dtype.kind == "u":
            result[channel, y, x] = np.rint(square.astype(np.float64).mean())
        else:
            result[channel, y, x] = square.astype(np.float64).mean()
    return result


@settings(max_examples=60, deadline=None)
@given(data=st.data(), labels=st.booleans(), block=st.sampled_from([1, 7, 40, 300, 10**6]))
def test_thumbnails_equal_the_plain_ones_whatever_the_blocks(data, labels, block):
    height, width, longest = (data.draw(st.integers(1, 33)) for _ in range(3))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    dtype = np.uint8 if labels else data.draw(st.sampled_from([np.uint8, np.uint16, np.float32]))
    pixels = rng.choice([0, 1, 2, 255], (data.draw(st.sampled_from([1, 3])), height, width)).astype(dtype)
    largest = 0

    def read(box):
        nonlocal largest
        largest = max(largest, box.area)
        return pixels[(..., *box.slices)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("microseg_ray.figures.pictures._BLOCK_PIXELS", block)
        result = thumbnail(read, (height, width), longest, labels=labels)
    expected = naive_thumbnail(pixels, longest, labels)
    assert result.dtype == expected.dtype
    assert max(result.shape[1:]) <= longest
    np.testing.assert_allclose(result, expected, rtol=1e-6)
    step = -(-max(height, width) // longest)
    assert largest <= max(block, step * step)


@pytest.mark.parametrize(("shape", "longest"), [((0, 4), 2), ((4, 4), 0)])
def test_thumbnails_of_nothing_are_refused(shape, longest):
    with pytest.raises(ValueError, match="no thumbnail"):
        thumbnail(lambda box: np.zeros((1, *box.shape)), shape, longest)
