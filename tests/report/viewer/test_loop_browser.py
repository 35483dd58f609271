"""The labelling loop in a real headless Chromium: find places, walk, paint, learn, reload meanwhile, compare."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from microseg_ray.geometry import Box
from microseg_ray.report.labelling.rounds import Rounds
from microseg_ray.report.viewer.labels import Labels, Sheet
from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore

from .conftest import serving
from .test_browser import WAIT, drag, open_in, saved, shot

COLORS = np.array([[0x20, 0x20, 0x20], [0xE6, 0x9F, 0], [0x56, 0xB4, 0xE9]])


def ended(tab, state="done"):
    tab.wait_for_selector(f"#work[data-state={state}]", timeout=240_000)


def said(tab, place, words):
    tab.locator(place, has_text=re.compile(words)).wait_for(timeout=240_000)


@pytest.mark.slow
def test_find_walk_paint_undo_save_reload_learn_and_compare(browser, viewed_run, tmp_path):
    folder, run = tmp_path / "labels", Run.open(viewed_run)
    labels, rounds = Labels(folder, run.classes), Rounds(folder)
    with serving(viewed_run, "--cache", tmp_path / "cache", "--labels", folder, "--who", "Ann") as page:
        context = browser.new_context(viewport={"width": 1200, "height": 900})
        tab = context.new_page()
        tab.set_default_timeout(30_000)
        errors = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.goto(page.address)
        tab.wait_for_selector("#rows tbody tr")
        open_in(tab, "large.tif", "?y=500&x=400&z=1")
        # Learning without a label is refused with its reason.
        tab.wait_for_selector("#learn")
        tab.click("#learn")
        ended(tab, "failed")
        assert "nothing is labelled yet" in tab.inner_text("#says")
        # Where to label next: the places of the file, by button and by key.
        tab.click("#find")
        said(tab, "#place-reason", r"^\d+ places")
        places = json.loads((folder / "next.json").read_text())["places"]
        tab.click("#place-next")
        tab.wait_for_selector(f"body[data-ready^='#m/{places[0]['key']}']")
        said(tab, "#place-reason", "^Place 1 of")
        tab.keyboard.press(".")
        tab.wait_for_selector(f"body[data-ready^='#m/{places[1]['key']}']")
        said(tab, "#place-reason", "^Place 2 of")
        y, x = (float(re.search(rf"[?&]{axis}=([0-9.]+)", tab.url)[1]) for axis in "yx")
        y0, x0, y1, x1 = places[1]["box"]
        assert (y, x) == pytest.approx(((y0 + y1) / 2, (x0 + x1) / 2), abs=1)
        # Paint two classes and a stroke that is taken back; all of it is there after a reload.
        open_in(tab, "large.tif", "?y=500&x=400&z=1")
        tab.wait_for_selector("#tools [data-tool=brush]")
        tab.keyboard.press("b")
        for key, (left, top) in (("1", (300, 300)), ("3", (300, 420)), ("2", (300, 540))):
            tab.keyboard.press(key)
            drag(tab, (left, top), (left + 160, top + 20))
            saved(tab)
        tab.keyboard.press("z")
        saved(tab)
        sheet = Sheet("large.tif", "", (1100, 900), None)
        painted = labels.pixels(sheet, Box.of_shape(sheet.shape))
        assert set(np.unique(painted)) == {0, 2, 255}
        tab.keyboard.press("Escape")
        # Learn; a page that is loaded anew shows the same round.
        tab.fill("#minutes", "0.1")
        tab.click("#learn")
        tab.wait_for_selector("#work[data-state=running]")
        assert tab.is_disabled("#learn")
        tab.reload()
        tab.wait_for_selector("#work[data-state=running]")
        ended(tab)
        tab.wait_for_selector("#rounds li")
        tab.wait_for_selector("#layers input[data-layer=change]")
        record = rounds.read(1)
        (change,) = record.changes
        assert f"Round 1, {record.steps} steps" in tab.inner_text("#rounds")
        newest = rounds.newest("large.tif")
        assert newest is not None
        before, after = MaskStore.open(run.store_path("large.tif")).mask[:], newest[1].mask[:]
        assert change.changed == (before != after).sum() > 0
        assert change.labelled == (painted != 255).sum()
        assert change.right_after == (painted == after).sum() > change.right_before == (painted == before).sum()
        # After, before, and what differs, at 1:1 pixel by pixel.
        tab.evaluate(
            """() => { const { microseg: page } = window; page.paint.opacity = 0; page.exact();
              for (const layer of page.info.layers) page.setOpacity(layer, layer === 'learnt' ? 1 : 0); }"""
        )
        for mask, key in ((after, None), (before, "a"), (after, "a")):
            if key:
                tab.keyboard.press(key)
            tab.wait_for_timeout(200)
            tab.evaluate(WAIT)
            y, x = (int(np.floor(value + 0.5)) for value in tab.evaluate("window.microseg.toImage(300, 300)"))
            np.testing.assert_array_equal(shot(tab), COLORS[mask[y : y + 200, x : x + 200]])
        tab.evaluate("window.microseg.setOpacity('learnt', 0); window.microseg.setOpacity('change', 1)")
        tab.wait_for_timeout(200)
        tab.evaluate(WAIT)
        differs = (before != after)[y : y + 200, x : x + 200]
        np.testing.assert_array_equal((shot(tab)[..., 0] > 200), differs)
        # A round that is cancelled leaves no trace.
        tab.fill("#minutes", "5")
        tab.click("#learn")
        said(tab, "#work", "train")
        tab.click("#cancel")
        ended(tab, "cancelled")
        assert rounds.last() == 1
        context.close()
        assert errors == []
