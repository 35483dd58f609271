"""verify: a run is what its run.json says it is, or every difference is named."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from microseg_ray.errors import CheckpointError, StoreError
from microseg_ray.on_ray.actors import segment
from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.verify import verify
from microseg_ray.settings import SegmentSettings, VerifySettings, settings_from


@pytest.fixture(scope="module")
def finished(archive, checkpoint, tmp_path_factory):
    output = tmp_path_factory.mktemp("verified") / "run"
    chosen = {"archive": str(archive), "checkpoint": str(checkpoint), "output": str(output), "workers": 0, "shard": 128}
    segment(settings_from(SegmentSettings, chosen))
    return output


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return Run.open(tmp_path / "run")


def check(run, **options):
    return verify(settings_from(VerifySettings, {"run": str(run.folder), "shards": 1000, **options}))


def first_store(run):
    name = next(name for name in run.names() if MaskStore.open(run.store_path(name)).finished)
    return name, MaskStore.open(run.store_path(name))


def test_an_untouched_run_is_equal_byte_for_byte(run):
    found = check(run)
    assert found.problems == ()
    assert found.recomputed == found.equal > 1
    assert found.recounted >= found.recomputed
    assert found.miscounted == 0


def test_as_many_shards_as_asked_for_and_always_the_same(run):
    assert check(run, shards=2).recomputed == 2


def test_changed_pixels_are_found_and_counted(run):
    name, store = first_store(run)
    pixels = np.asarray(store.mask[:8, :8])
    store.mask[:8, :8] = np.where(pixels == 0, 1, 0).astype(np.uint8)
    found = check(run)
    assert any(name in problem and "64 of" in problem for problem in found.problems)
    assert found.equal == found.recomputed - 1


def test_counts_that_are_not_those_of_the_pixels_are_found(run):
    name, store = first_store(run)
    counts = store._counts[0, 0]
    store._counts[0, 0] = np.roll(counts, 1)
    found = check(run)
    assert found.miscounted == 1
    assert any(name in problem and "ledger" in problem for problem in found.problems)


def test_a_micrograph_that_changed_since_is_named(run):
    name, _ = first_store(run)
    source = Path(str(run.document["archive"])) / name
    before = source.stat()
    os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    try:
        found = check(run)
    finally:
        os.utime(source, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert any(name in problem and "has changed since" in problem for problem in found.problems)


def test_another_model_cannot_verify(run, new_checkpoint, tmp_path):
    other = new_checkpoint(tmp_path / "other", seed=7)
    with pytest.raises(CheckpointError, match="cannot be recomputed with this checkpoint"):
        check(run, checkpoint=str(other))


def test_a_run_without_a_finished_shard_says_so(run):
    shutil.rmtree(run.folder / "masks")
    with pytest.raises(StoreError, match="no shard is done yet"):
        check(run)


def test_the_command_line_says_it_by_its_exit_code(run, microseg):
    assert microseg("verify", "--run", str(run.folder), "--shards", "2").code == 0
    _, store = first_store(run)
    store.mask[:] = np.zeros(store.spec.shape, np.uint8)
    assert microseg("verify", "--run", str(run.folder), "--shards", "1000").code == 1


def test_seams_are_in_run_json_and_in_every_mask(run):
    assert set(json.loads((run.folder / "run.json").read_text())["seams"]) == {
        "pixels",
        "seam_max_abs",
        "seam_argmax_flips",
        "shape_pixels",
        "shape_max_abs",
        "shape_argmax_flips",
    }
    _, store = first_store(run)
    assert store.note["verdict"] == "exact"
    assert store.note["seam_argmax_flips"] == 0


def test_a_run_whose_tiles_are_not_square_is_computed_again_in_the_same_tiles(archive, checkpoint, tmp_path):
    chosen = {"archive": str(archive), "checkpoint": str(checkpoint), "output": str(tmp_path / "run"), "workers": 0}
    segment(settings_from(SegmentSettings, {**chosen, "shard": 256, "tile_area": 30_000, "path": "tiles"}))
    run = Run.open(tmp_path / "run")
    assert run.identity.pixels["tile_area"] == 30_000
    found = check(run, shards=4)
    assert found.problems == ()
    assert found.recomputed == found.equal == 4
