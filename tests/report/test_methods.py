"""What a page says for a paper is what the run records, and no more; and which micrographs it shows."""

from __future__ import annotations

import re
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from microseg_ray.report import Shown, report_run
from microseg_ray.report import run as of_run
from microseg_ray.report.methods import methods_of
from microseg_ray.runs.folder import Run
from microseg_ray.runs.segment import segment
from microseg_ray.settings import SegmentSettings


@pytest.fixture(scope="module")
def run(tmp_path_factory, checkpoint):
    """Four micrographs, one of which is bright, and one that is no picture."""
    folder = tmp_path_factory.mktemp("methods")
    (folder / "images").mkdir()
    for number, name in enumerate(("a", "b", "<i>odd</i>", "d")):
        pixels = np.random.default_rng(number).integers(0, 250 if name.startswith("<") else 120, (64, 64), np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{name.replace('/', '-')}.png")
    (folder / "images/bad.png").write_bytes(b"")
    given = {"archive": str(folder / "images"), "checkpoint": str(checkpoint), "output": str(folder / "run")}
    return segment(SegmentSettings(**given, workers=0, path="tiles", pixel_size_um=(0.5, 0.5))).run


def test_the_paragraph_says_what_the_run_records(run):
    found = methods_of(run, run.areas(), run.accounts())
    for said in (
        "4 micrographs were segmented into the classes matrix, grain and pore with microseg_ray ",
        f"model digest sha256:{run.identity.model_digest[:16]}",
        f"in tiles of {run.identity.pixels['tile']} px with a halo of {run.identity.pixels['halo']} px.",
        f"Stitching: {run.document['promise']}.",
        "each pixel once: 16,384 px; 0 px (0.00 %)",
        "Sources of pixel sizes (micrographs): given by the user: 4.",
        "1 input could not be used and is listed in failures.csv.",
    ):
        assert said in found.paragraph
    # Nothing was measured of objects or intervals, so nothing is said of them.
    assert "Objects" not in found.paragraph
    assert not any("ASTM" in line or "Legland" in line for line in found.citations)
    assert any("Moore" in line for line in found.citations)
    assert any("Majurski" in line for line in found.citations)


def test_the_page_has_it_and_shows_outliers_first(run, monkeypatch):
    page = report_run(run.folder).read_text("utf-8")
    assert "For a paper" in page
    assert "4 micrographs were segmented" in page
    shown = []
    genuine = of_run._panel
    monkeypatch.setattr(of_run, "_panel", lambda run, name: shown.append(name) or genuine(run, name))
    report_run(run.folder, shown=Shown(panels=2))
    ranked = of_run.outliers_first(of_run.scores_of(run.areas()))
    assert shown == ranked[:2]
    assert "<i>odd<-i>.png" in ranked
    shares = np.array([row["area_fraction"] for row in run.areas()]).reshape(4, 3)
    names = list(dict.fromkeys(row["micrograph"] for row in run.areas()))
    # The first is the one that is farthest, in some class, from the median, in units of that class.
    away = np.abs(shares - np.median(shares, axis=0)) / np.median(np.abs(shares - np.median(shares, axis=0)), axis=0)
    assert ranked[0] == names[int(away.max(axis=1).argmax())]
    assert len(Run.open(run.folder).names()) == 4


@pytest.mark.slow
def test_the_page_prints_in_a_real_browser(run, tmp_path):
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium is here")
    page = report_run(run.folder)
    target = tmp_path / "page.pdf"
    options = ("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}", f"--print-to-pdf={target}")
    subprocess.run([chromium, *options, page.as_uri()], check=True, capture_output=True, timeout=200)
    printed = target.read_bytes()
    assert printed.startswith(b"%PDF-")
    # Pages of the document, and the four micrographs with their masks as images in it.
    assert len(re.findall(rb"/Type\s*/Page\b", printed)) >= 1
    assert len(re.findall(rb"/Subtype\s*/Image\b", printed)) >= 8
