"""Runs that are made from a run: both stop on a full disk, and what showed older masks is removed by name."""

from __future__ import annotations

import errno
import os

import numpy as np
import pytest
from PIL import Image

from microseg_ray.errors import SettingsError, StoreError
from microseg_ray.outputs import Kind
from microseg_ray.runs.derived.postprocess import postprocess
from microseg_ray.runs.derived.threshold import threshold
from microseg_ray.runs.folder import Run
from microseg_ray.runs.segment import segment
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.settings import PostprocessSettings, SegmentSettings, ThresholdSettings


@pytest.fixture(scope="module")
def parent(checkpoint, tmp_path_factory):
    folder = tmp_path_factory.mktemp("parent")
    (folder / "images").mkdir()
    for name in "ab":
        pixels = np.random.default_rng(ord(name)).integers(0, 256, (70, 90), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
    chosen = SegmentSettings(
        archive=str(folder / "images"),
        checkpoint=str(checkpoint),
        output=str(folder / "run"),
        shard=64,
        workers=0,
        extra="probabilities",
    )
    return segment(chosen).run.folder


def derive(kind, parent, output):
    if kind == "threshold":
        return threshold(ThresholdSettings(run=str(parent), class_name="pore", threshold=0.5, output=str(output)))
    chosen = PostprocessSettings(run=str(parent), output=str(output), majority=1, workers=0)
    return postprocess(chosen, scheduler="synchronous")


KINDS = pytest.mark.parametrize("kind", ["threshold", "postprocess"])


@KINDS
def test_a_full_disk_stops_the_job_and_it_can_be_resumed(kind, parent, tmp_path, monkeypatch):
    calls = []

    def full(store, *_):
        calls.append(store.path)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(MaskStore, "commit", full)
        with pytest.raises(StoreError, match="can be resumed with the same command"):
            derive(kind, parent, tmp_path / "out")
    assert len(set(calls)) == 1, "the second mask is not tried"
    done = derive(kind, parent, tmp_path / "out")
    assert not done.failures
    assert {row.micrograph for row in done.areas} == {"a.png", "b.png"}


@KINDS
def test_an_output_that_would_harm_the_parent_is_refused(kind, parent, tmp_path):
    for output in (parent, parent / "masks" / "new"):
        with pytest.raises(SettingsError, match=rf"{kind}\.output: .* is, or lies in, the run that is read"):
            derive(kind, parent, output)


def make_older(folder, *names):
    """Files as `measure` and `report` leave them in a run: claimed, then written."""
    Run.open(folder).claim(dict.fromkeys(names, Kind.FILE))
    for name in names:
        (folder / name).write_text("older")


@KINDS
def test_what_shows_older_masks_is_removed_by_name(kind, parent, tmp_path):
    out = tmp_path / "out"
    assert derive(kind, parent, out).dropped == []
    make_older(out, "report.html", "sections.csv")
    (out / "notes.txt").write_text("mine")
    assert derive(kind, parent, out).dropped == ["sections.csv", "report.html"]
    assert sorted(path.name for path in out.iterdir() if path.suffix in {".html", ".txt"}) == ["notes.txt"]


def test_measure_and_segment_say_what_they_remove(parent, microseg):
    make_older(parent, "report.html")
    assert "removed, because the tables are new: report.html" in microseg("measure", "--run", parent).out
    assert "removed" not in microseg("measure", "--run", parent).out


def test_writing_tables_removes_nothing(parent):
    (parent / "report.html").write_text("mine")
    run = Run.open(parent)
    run.write_tables(run.names(), [])
    assert (parent / "report.html").exists()
