"""A finished run of few micrographs with awkward names, and the page that `microseg view` serves of it."""

from __future__ import annotations

import http.cookiejar
import json
import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from microseg_ray.cli import main
from microseg_ray.report.viewer.subject import key_of

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = "<img src=x onerror=alert(1)>\"'&.tif"
BROKEN = os.fsdecode(b"two\nlines \xff.tif")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium-headless-shell", "chromium", "google-chrome"))), None)


def write_large(folder: Path) -> None:
    """`large.tif`, 1100 x 900 px: a gradient with squares."""
    y, x = np.mgrid[:1100, :900]
    pixels = ((y // 64 + x // 64) % 3 * 70 + x % 50).astype(np.uint8)
    tifffile.imwrite(folder / "large.tif", pixels, tile=(256, 256), compression="deflate")


@pytest.fixture(scope="session")
def viewed_run(tmp_path_factory, checkpoint):
    """A run of four micrographs, one of which could not be read; its archive lies beside it. Read only."""
    place = tmp_path_factory.mktemp("view")
    archive = place / "archive"
    archive.mkdir()
    write_large(archive)
    generator = np.random.default_rng(0)
    for name in (HOSTILE, BROKEN):
        tifffile.imwrite(archive / name, generator.integers(0, 255, (90, 70), np.uint8))
    (archive / "empty.tif").touch()
    options = ["--checkpoint", str(checkpoint), "--workers", "0", "--shard", "256", "--extra", "margin"]
    assert main(["segment", "--archive", str(archive), "--output", str(place / "run"), *options]) == 3
    assert main(["measure", "--run", str(place / "run"), "--objects.min_pixels", "5", "--exports.write", "false"]) in {
        0,
        3,
    }
    return place / "run"


class Page:
    """What the server of one page answers, as its own page asks it."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.base = address.partition("?")[0]
        cookies = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(cookies)
        self._opener.open(address).read()

    def ask(self, path, body=None, headers=()):
        """(status, content, headers)."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.base + path, data, {"content-type": "application/json", **dict(headers)})
        try:
            with self._opener.open(request) as answer:
                return answer.status, answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            return error.code, error.read(), error.headers

    def json(self, path, body=None):
        status, content, _ = self.ask(path, body)
        assert status == 200, content
        return json.loads(content)

    def row(self, name):
        return next(row for row in self.json("api/list?size=200")["rows"] if row["key"] == key_of(name))


@contextmanager
def serving(*arguments):
    """`microseg view` as its own process, until the block ends."""
    command = [sys.executable, "-m", "microseg_ray.cli", "view", *map(str, arguments), "--no-browser"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    try:
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, line + process.stderr.read()
        for _ in range(200):
            try:
                page = Page(found.group())
                break
            except urllib.error.URLError:
                if process.poll() is not None:
                    raise
                time.sleep(0.05)
        yield page
    finally:
        process.terminate()
        process.communicate(timeout=30)


@pytest.fixture(scope="session")
def page(viewed_run, tmp_path_factory):
    with serving(viewed_run, "--cache", tmp_path_factory.mktemp("cache")) as found:
        yield found


@pytest.fixture(scope="session")
def browser():
    """A real headless Chromium."""
    if CHROMIUM is None:
        pytest.skip("no Chromium here; on Debian: apt-get install chromium-headless-shell")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        found = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()
