"""The least certain places, thumbnails, provenance and pages of a run's report."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image

from microseg_ray.figures.pictures import class_palette
from microseg_ray.report import RunReport, Shown, report_run, write_run_report
from microseg_ray.report.cells import MOST_ROWS, PAGE_ROWS
from microseg_ray.report.provenance import provenance_of
from microseg_ray.report.thumbnails import SIDE, write_thumbnails
from microseg_ray.report.uncertain import EACH, WINDOW, doubtful_windows, uncertain_places
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.settings import ClassSpec
from tests.finished_runs import finished_run

CLASSES = (ClassSpec(name="matrix", color="#202020"), ClassSpec(name="pore", color="#e69f00"))
HOSTILE = "a<b>\n'\udcff.tif"


@examples(max_examples=15, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 1300), st.integers(1, 600)),
    seed=st.integers(0, 99),
    kind=st.sampled_from(["margin", "entropy"]),
    step=st.integers(1, 3),
)
def test_windows_are_those_of_a_loop_over_all_windows(shape, seed, kind, step):
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 255, shape, np.uint8)
    values[generator.random(shape) < generator.choice([0.2, 0.5, 0.55])] = 255
    found = {box: doubt for doubt, box in doubtful_windows(shape, lambda box: values[box.slices], kind, step)}
    expected = {}
    for row, y in enumerate(range(0, shape[0], WINDOW)):
        for x in range(0, shape[1], WINDOW):
            own = values[y : y + WINDOW, x : x + WINDOW]
            known = own[own != 255] / 254
            if row // 2 % step == 0 and known.size and 2 * known.size >= own.size:
                expected[(y, x, *own.shape)] = (1 - known if kind == "margin" else known).mean()
    assert {(box.y0, box.x0, *box.shape) for box in found} == set(expected)
    for box, doubt in found.items():
        assert doubt == pytest.approx(expected[(box.y0, box.x0, *box.shape)], abs=1e-12)


@pytest.fixture
def run(tmp_path):
    """Three micrographs with margins; the doubt is in one corner of `a.tif`, in less of `b.tif`, and nowhere else."""
    masks = {
        name: (np.tile(np.arange(700) % 2, (600, 1)).astype(np.uint8), (0.5, 0.25))
        for name in ("a.tif", "b.tif", HOSTILE)
    }
    made = finished_run(tmp_path, CLASSES, masks, 512, pixels={"extra": "margin"})
    for name, low in (("a.tif", 10), ("b.tif", 100), (HOSTILE, 250)):
        store = MaskStore.open(made.store_path(name))
        identity, mask = store.identity, store.mask[:]
        again = MaskStore.create(made.store_path(name), MaskSpec(mask.shape, CLASSES, 512, "margin"), identity)
        margin = np.full(mask.shape, 240, np.uint8)
        margin[256:512, :256] = low
        for place in np.ndindex(*again.spec.shards):
            slices = again.spec.box(place).slices
            again.commit(place, mask[slices], margin[slices])
        again.finish((0.5, 0.25), {"pixel_size_um": (0.5, 0.25), "pixel_size_source": "option"})
    made.write_tables(made.names(), [])
    return made


def test_the_least_certain_places_come_first_and_are_spread(run):
    found = uncertain_places(run, run.names(), 5)
    assert found.kind == "margin"
    assert [each.micrograph for each in found.found[:2]] == ["a.tif", "b.tif"]
    first = found.found[0]
    assert (first.box.y0, first.box.x0, first.box.shape) == (256, 0, (256, 256))
    assert first.doubt == pytest.approx(1 - 10 / 254)
    np.testing.assert_array_equal(first.mask, np.tile(np.arange(256) % 2, (256, 1)))
    assert first.image is not None
    assert max(sum(other.micrograph == each.micrograph for other in found.found) for each in found.found) == EACH
    # What is gone or damaged since is left out and named; what has no micrograph any more is shown without it.
    shutil.rmtree(run.store_path("b.tif") / "margin")
    (run.folder.parent / "archive" / "a.tif").unlink()
    found = uncertain_places(run, run.names(), 5)
    assert found.unread == ("b.tif",)
    assert found.found[0].image is None
    page = report_run(run.folder, shown=Shown(places=3)).read_text("utf-8")
    assert "doubt 0.961; y 256 to 512, x 0 to 256 px" in page
    assert "The micrograph is not there any more" in page


def test_without_a_map_the_page_says_how_to_get_one(tmp_path):
    made = finished_run(tmp_path, CLASSES, {"a.tif": (np.zeros((40, 40), np.uint8), None)}, 512)
    made.write_tables(made.names(), [])
    assert "--extra margin" in report_run(made.folder).read_text("utf-8")


def test_thumbnails_are_the_masks_in_sheets(run):
    names = run.names()
    found = write_thumbnails(run, names)
    assert [place[0] for place in found.values()] == ["thumbnails/000.png"] * 3
    sheet = Image.open(run.folder / "thumbnails/000.png").convert("RGBA")
    for name, (_, x, y) in zip(names, found.values(), strict=True):
        coarsest = MaskStore.open(run.store_path(name))
        level = np.asarray(coarsest._group["1"][:])
        small = level[3::6, 3::6]
        tile = np.asarray(sheet.crop((x, y, x + small.shape[1], y + small.shape[0])))
        np.testing.assert_array_equal(tile[..., :3], class_palette(CLASSES)[small])
        assert max(small.shape) <= SIDE
    # Of a mask that is gone there is none, and sheets that are not needed any more go.
    shutil.rmtree(run.store_path("b.tif"))
    assert set(write_thumbnails(run, names)) == set(found) - {"b.tif"}
    assert write_thumbnails(run, []) == {}
    assert not (run.folder / "thumbnails").exists()


def test_provenance_names_machines_models_and_people(run):
    (run.folder / "logs").mkdir()
    lines = [
        {"time": f"2026-01-02T03:04:0{n}+00:00", "event": event, "host": "node3"}
        for n, event in enumerate(("begin", "end"))
    ]
    (run.folder / "logs/segment.jsonl").write_text("\n".join(map(json.dumps, lines)) + '\n{"event": "beg')
    (run.folder / "labels/records").mkdir(parents=True)
    stroke = {"who": "Ann <b>", "when": "2026-02-03T04:05:06+00:00"}
    (run.folder / "labels/records/x.jsonl").write_text(f"{json.dumps(stroke)}\n{json.dumps(stroke)}\n")
    steps = {step.what.partition(":")[0]: step for step in provenance_of(run)}
    assert steps["Masks and tables"].maker == "machine node3"
    assert steps["Masks and tables"].when == "2026-01-02 03:04:00 to 2026-01-02 03:04:01 UTC"
    assert steps["Labels"].maker == "Ann <b>"
    assert steps["Labels"].means == "2 strokes in 1 micrographs"
    assert "gone" in steps["Model"].means
    assert "Ann &lt;b&gt;" in report_run(run.folder).read_text("utf-8")


def test_a_long_table_is_in_pages_and_nothing_of_it_can_end_the_script(tmp_path):
    rows = [
        {
            "micrograph": f"{n}</script><b>.tif",
            "class": "pore",
            "pixel_count": n,
            "area_fraction": n / 1000,
            "area_um2": n / 3,
        }
        for n in range(MOST_ROWS + 1)
    ]
    page = tmp_path / "report.html"
    write_run_report(page, RunReport("t", areas=rows))
    text = page.read_text("utf-8")
    body = text.partition('<table id="areas">')[2].partition("</table>")[0]
    assert body.count("<tr") == 1 + PAGE_ROWS
    data = json.loads(text.partition('id="areas-rows">')[2].partition("</script>")[0])
    assert [row[2] for row in data["rows"]] == list(range(MOST_ROWS + 1))
    assert data["rows"][5][0] == "5</script><b>.tif"
    assert f"rows 1 to {PAGE_ROWS} of {MOST_ROWS + 1}" in text


@pytest.mark.slow
def test_a_long_table_is_turned_sorted_and_filtered_in_a_real_browser(tmp_path):
    chromium = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)
    if chromium is None:
        pytest.skip("no Chromium is here")
    from playwright.sync_api import sync_playwright

    rows = [
        {"micrograph": f"{n}.tif", "class": "pore", "pixel_count": 7919 * n % 100_003, "area_fraction": n / 1000}
        | {"low": 0.1, "high": 0.25}
        for n in range(1000)
    ]
    page = tmp_path / "report.html"
    (tmp_path / "thumbnails").mkdir()
    Image.new("RGB", (SIDE, SIDE), "#ff0000").save(tmp_path / "thumbnails/000.png")
    write_run_report(
        page, RunReport("t", areas=rows, thumbnails={"999.tif": ("thumbnails/000.png", 0, 0)}, scores={"999.tif": 2.0})
    )
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        tab = browser.new_page()
        errors: list[str] = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("console", lambda said: errors.append(said.text))
        tab.goto(page.as_uri())

        def cells(column):
            return tab.eval_on_selector_all(
                f"#areas tbody tr > :nth-child({column})", "all => all.map((each) => each.textContent)"
            )

        def first_row():
            """Text, kinds and tags of the cells of the first row."""
            read = "all => all.map((each) => [each.tagName, each.textContent.trim(), [...each.classList].join(' ')])"
            return tab.eval_on_selector_all("#areas tbody tr:first-child > *", read)

        in_markup = first_row()
        tab.click("button[data-turn='1']")
        assert cells(2) == [f"{n}.tif" for n in range(100, 200)]
        tab.click("button[data-turn='-1']")
        # The script draws a row as the markup had it.
        assert first_row() == in_markup
        tab.click("#areas thead th:nth-child(4)")
        counts = sorted(7919 * n % 100_003 for n in range(1000))
        assert [int(each) for each in cells(4)] == counts[:100]
        tab.fill("#filter", "999")
        assert cells(2) == ["999.tif"]
        assert cells(6) == ["10.000 to 25.000"]
        assert tab.inner_text("#areas-shown") == "rows 1 to 1 of 1"
        where = tab.locator(".thumb").bounding_box()
        tab.screenshot(
            path=tmp_path / "shot.png", clip={"x": where["x"] + 5, "y": where["y"] + 5, "width": 4, "height": 4}
        )
        assert np.asarray(Image.open(tmp_path / "shot.png").convert("RGB"))[1, 1].tolist() == [255, 0, 0]
        browser.close()
        assert errors == []
