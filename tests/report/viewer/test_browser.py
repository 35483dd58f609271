"""The page in a real headless Chromium."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from PIL import Image
from skimage.measure import label

from microseg_ray.geometry import Box
from microseg_ray.names import text
from microseg_ray.report.viewer.labels import Labels, Sheet, Ticket
from microseg_ray.report.viewer.strokes import Stroke
from microseg_ray.report.viewer.subject import key_of
from microseg_ray.runs.folder import Run

from .conftest import BROKEN, HOSTILE, serving


@pytest.fixture
def tab(browser, page):
    """A tab that fails the test where a script of the page fails."""
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    found = context.new_page()
    errors = []
    found.on("pageerror", lambda error: errors.append(str(error)))
    found.on("dialog", lambda dialog: errors.append(f"a name ran as a script: {dialog.message}"))
    found.goto(page.address)
    found.wait_for_selector("#rows tbody tr")
    yield found
    context.close()
    assert errors == []


def open_in(tab, name, place=""):
    tab.goto(tab.url.partition("#")[0] + f"#m/{key_of(name)}{place}")
    tab.wait_for_selector(f"body[data-ready^='#m/{key_of(name)}']")
    tab.evaluate(WAIT)


WAIT = """() => new Promise((done) => {
  const look = () => {
    const items = window.microseg.info.layers.map((layer) => window.microseg.items[layer]);
    const ready = items.every((item) => item && (item.getOpacity() === 0 || item.getFullyLoaded()));
    if (ready) requestAnimationFrame(() => requestAnimationFrame(done)); else setTimeout(look, 30);
  };
  look();
})"""


def shot(tab, y=300, x=300, side=200):
    content = tab.screenshot(clip={"x": x, "y": y, "width": side, "height": side})
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB")).astype(int)


def names(tab):
    return tab.eval_on_selector_all("#rows tbody td:nth-child(2) a", "links => links.map((link) => link.textContent)")


def test_the_list_is_sorted_filtered_and_shows_names_as_text(tab):
    assert set(names(tab)) == {"large.tif", text(HOSTILE), text(BROKEN), "empty.tif"}
    tab.click("th[data-sort=name]")
    tab.wait_for_selector("body[data-ready*='sort=name']")
    assert names(tab) == sorted(names(tab), reverse=True)
    tab.click("th[data-sort='1']")
    tab.wait_for_selector("body[data-ready*='sort=1']")
    shown = tab.eval_on_selector_all("#rows tbody td:nth-child(6)", "cells => cells.map((cell) => cell.dataset.value)")
    values = [float(value) for value in shown if value]
    assert values == sorted(values, reverse=True)
    tab.fill("#contains", "large")
    tab.wait_for_selector("body[data-ready*='contains=large']")
    assert names(tab) == ["large.tif"]


def test_zoom_classes_seams_keys_and_the_link_to_a_place(tab, viewed_run):
    open_in(tab, "large.tif")
    tab.keyboard.press("1")
    tab.wait_for_selector("body[data-ready]")
    tab.evaluate(WAIT)
    assert tab.evaluate("window.microseg.zoom") == pytest.approx(1)
    assert "no pixel size" in tab.inner_text("#bar")
    # The mask alone, at full opacity: at 1:1 each pixel of the screen is one of the mask, in the colour of its class.
    tab.evaluate("window.microseg.setOpacity('image', 0); window.microseg.setOpacity('mask', 1)")
    tab.evaluate(WAIT)
    from microseg_ray.runs.store.masks import MaskStore

    mask = MaskStore.open(Run.open(viewed_run).store_path("large.tif")).mask[:]
    y, x = (int(np.floor(value + 0.5)) for value in tab.evaluate("window.microseg.toImage(300, 300)"))
    colors = np.array([[0x20, 0x20, 0x20], [0xE6, 0x9F, 0], [0x56, 0xB4, 0xE9]])
    expected = colors[mask[y : y + 200, x : x + 200]]
    before = shot(tab)
    np.testing.assert_array_equal(before, expected)
    tab.uncheck("input[data-class='1']")
    tab.wait_for_timeout(100)
    tab.evaluate(WAIT)
    after, grain = shot(tab), mask[y : y + 200, x : x + 200] == 1
    assert grain.mean() > 0.05
    # What was of the hidden class is the dark ground now, the rest is as before.
    np.testing.assert_array_equal(after, np.where(grain[..., None], [0x10, 0x10, 0x14], before))
    tab.keyboard.press("s")
    tab.wait_for_timeout(300)
    assert tab.evaluate("window.microseg.seams.shards[0].length") == 4
    place = "?y=700.0&x=450.0&z=2"
    open_in(tab, HOSTILE)
    open_in(tab, "large.tif", place)
    centre = tab.evaluate(
        """() => {
            const { x, y } = window.microseg.viewer.viewport.getContainerSize();
            return window.microseg.toImage(x / 2, y / 2);
        }"""
    )
    assert centre == pytest.approx([700, 450], abs=0.5)
    assert tab.evaluate("window.microseg.zoom") == pytest.approx(2)
    first = tab.url
    tab.keyboard.press("n" if tab.is_enabled("#next") else "p")
    tab.wait_for_selector(f"body[data-ready]:not([data-ready^='#m/{key_of('large.tif')}'])")
    assert tab.url != first
    assert tab.inner_text("#name") in {text(HOSTILE), text(BROKEN), "large.tif", "empty.tif"}


def test_an_object_under_the_mouse_shows_its_row(tab, viewed_run):
    from microseg_ray.runs.store.masks import MaskStore

    store = MaskStore.open(Run.open(viewed_run).store_path("large.tif"))
    mask = store.mask[:]
    open_in(tab, "large.tif", "?y=500&x=400&z=1")
    y, x = tab.evaluate("(() => { const p = window.microseg.toImage(400, 400); return p.map(Math.floor); })()")
    # The place of the screen's pixel (400, 400), and the component of its class there: edges and corners join.
    components = label(mask == mask[y, x], connectivity=2)
    pixels = int((components == components[y, x]).sum())
    assert pixels >= 5, "the table has no smaller objects"
    box = tab.locator("#zoom").bounding_box()
    tab.mouse.move(box["x"] + 380, box["y"] + 380)
    tab.mouse.move(box["x"] + 400, box["y"] + 400)
    tab.wait_for_selector("#object tr")
    cells = tab.eval_on_selector_all(
        "#object tr", "rows => rows.map((row) => [row.cells[0].textContent, row.cells[1].textContent])"
    )
    shown = dict(cells)
    assert int(shown["pixel_count"]) == pixels
    assert shown["class_name"] == store.spec.classes[int(mask[y, x])].name


def saved(tab):
    tab.wait_for_timeout(350)
    tab.wait_for_selector("body[data-saving='0']")


def drag(tab, start, *to, up=True):
    tab.mouse.move(*start)
    tab.mouse.down()
    for place in to:
        tab.mouse.move(*place, steps=6)
    if up:
        tab.mouse.up()


@pytest.mark.slow
def test_paint_undo_save_reload_and_two_people(browser, viewed_run, tmp_path):
    labels = Labels(tmp_path / "labels", Run.open(viewed_run).classes)
    sheet = Sheet("large.tif", str(viewed_run.parent / "archive" / "large.tif"), (1100, 900), None)
    whole = Box.of_shape(sheet.shape)
    with serving(viewed_run, "--cache", tmp_path / "cache", "--labels", tmp_path / "labels", "--who", "Ann") as page:
        context = browser.new_context(viewport={"width": 1200, "height": 800})
        tab = context.new_page()
        tab.set_default_timeout(20_000)
        errors = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(page.address)
        tab.wait_for_selector("#rows tbody tr")
        open_in(tab, "large.tif", "?y=500&x=400&z=1")
        tab.wait_for_selector("#tools [data-tool=brush]")
        # A stroke of the brush is on the disk, where the mouse was, in the class that was chosen.
        tab.keyboard.press("b")
        tab.keyboard.press("3")
        drag(tab, (300, 300), (420, 340))
        saved(tab)
        y, x = (int(value) for value in tab.evaluate("window.microseg.toImage(300, 300)"))
        first = labels.pixels(sheet, whole)
        assert first[y, x] == 2
        assert first[y + 40, x + 120] == 2
        assert set(np.unique(first)) == {2, 255}
        assert 9 * 120 < (first == 2).sum() < 9 * 150 + 200
        # It is seen on the page in the colour of the class, over the rest.
        tab.evaluate(
            "() => { window.microseg.paint.opacity = 1; window.microseg.paint.mouse = null; window.microseg.draw(); }"
        )
        tab.wait_for_timeout(400)
        assert np.abs(shot(tab, 300, 300, 1)[0, 0] - [0x56, 0xB4, 0xE9]).max() < 3
        # Eraser, polygon, fill; then undo of all three.
        tab.keyboard.press("e")
        drag(tab, (360, 290), (360, 350))
        saved(tab)
        assert labels.pixels(sheet, whole)[y + 20, x + 60] == 255
        tab.keyboard.press("g")
        for place in ((500, 500), (560, 500), (560, 560)):
            tab.mouse.click(*place)
        tab.keyboard.press("Enter")
        saved(tab)
        assert labels.pixels(sheet, whole)[y + 210, x + 250] == 2
        tab.keyboard.press("f")
        tab.mouse.click(550, 510)
        saved(tab)
        assert [entry["tool"] for entry in labels.entries("large.tif")][-2:] == ["polygon", "fill"]
        for _ in range(3):
            tab.keyboard.press("z")
            saved(tab)
        np.testing.assert_array_equal(labels.pixels(sheet, whole), first)
        # A new class; after a reload all is there again.
        tab.fill("#class-name", "crack")
        tab.click("#add-class")
        tab.wait_for_selector("#tools input[name=paint][value='3']")
        tab.reload()
        tab.wait_for_selector("#tools input[name=paint][value='3']")
        assert "Ann" in tab.inner_text("#saved")
        # Somebody else paints meanwhile: the page says so, and paints when it is told to.
        stroke = Stroke("brush", 0, ((900.5, 700.5),), 5)
        version = len(labels.entries("large.tif"))
        labels.draw(sheet, stroke, Ticket("Bob", "another", version, "b"))
        tab.keyboard.press("b")
        drag(tab, (600, 200), (650, 200))
        tab.wait_for_selector("#mine")
        assert "Bob painted here" in tab.inner_text("#conflict")
        assert len(labels.entries("large.tif")) == version + 1
        tab.click("#mine")
        saved(tab)
        assert labels.entries("large.tif")[-1]["who"] == "Ann"
        assert labels.pixels(sheet, whole)[900, 700] == 0
        # The browser is closed in mid-stroke: what was drawn is kept.
        count = (labels.pixels(sheet, whole) != 255).sum()
        drag(tab, (200, 600), (320, 600), up=False)
        tab.wait_for_timeout(400)
        tab.close(run_before_unload=False)
        for _ in range(100):
            if (labels.pixels(sheet, whole) != 255).sum() >= count + 9 * 110:
                break
            time.sleep(0.05)
        assert (labels.pixels(sheet, whole) != 255).sum() >= count + 9 * 110
        context.close()
        assert errors == []
