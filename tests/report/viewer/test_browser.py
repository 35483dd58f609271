"""The page in a real headless Chromium."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from microseg_ray.names import text
from microseg_ray.report.viewer.subject import key_of

from .conftest import BROKEN, HOSTILE


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
    from microseg_ray.runs.folder import Run
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
