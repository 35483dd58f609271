"""A large micrograph is finished in pieces: the same bytes as at once, gone on with after the last piece."""

from __future__ import annotations

import json
import os
import signal

import numpy as np
import pytest
import tifffile

from microseg_ray.errors import ObjectStoreError
from microseg_ray.on_ray.actors import segment
from microseg_ray.runs import finishing
from microseg_ray.runs.tasks import AuditTask, LevelTask
from tests.faults import model_free, runs
from tests.faults.model_free import Quick
from tests.runs.mask_stores import spoil

SHARD = 128


def settings(archive, checkpoint, output, workers):
    return runs.settings(archive, checkpoint, output, workers=workers, shard=SHARD, path="tiles")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """One micrograph of 9 x 6 shards."""
    folder = tmp_path_factory.mktemp("large")
    pixels = np.random.default_rng(3).integers(0, 256, (69, 45), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    tifffile.imwrite(folder / "a.tif", pixels[:1101, :709])
    return folder


@pytest.fixture(scope="module")
def whole(large, checkpoint, tmp_path_factory, tree_of):
    """The bytes of the plain loop that finishes it at once."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert not segment(settings(large, checkpoint, run, workers=0), worker_class=Quick).ledger.failures
    assert events(run, "pyramid") == []
    return tree_of(run / "masks")


@pytest.fixture
def small_pieces(monkeypatch):
    """15 shards of level 1 in four pieces, 6 of level 2 in two."""
    monkeypatch.setattr(finishing, "PIECE", 4)


def events(run, name):
    lines = (run / "logs/segment.jsonl").read_text().splitlines()
    return [found for found in map(json.loads, lines) if found["event"] == name]


def test_in_pieces_the_bytes_are_those_of_the_whole(large, checkpoint, whole, small_pieces, tree_of, tmp_path):
    done = segment(settings(large, checkpoint, tmp_path, workers=0), worker_class=Quick)
    assert not done.ledger.failures
    assert tree_of(tmp_path / "masks") == whole
    assert done.seams["pixels"]
    assert [event["count"] for event in events(tmp_path, "pyramid")] == [4, 4, 4, 3, 4, 2]
    assert len(events(tmp_path, "seam")) == 1
    assert len(events(tmp_path, "finished")) == 1


def test_a_killed_run_goes_on_after_the_last_piece(large, checkpoint, whole, small_pieces, tree_of, tmp_path):
    class Stops(Quick):
        def _piece(self, task):
            if isinstance(task, LevelTask) and task.shards[0] == (1, 2, 2):
                raise ObjectStoreError("as if killed")
            return super()._piece(task)

    chosen = settings(large, checkpoint, tmp_path, workers=0)
    with pytest.raises(Exception, match="as if killed"):
        segment(chosen, worker_class=Stops)
    before = len(events(tmp_path, "pyramid"))
    assert before == 2
    again = segment(chosen, worker_class=Quick)
    assert again.ledger.computed == 0
    assert len(events(tmp_path, "pyramid")) == 6
    assert tree_of(tmp_path / "masks") == whole


def test_a_level_that_is_damaged_meanwhile_is_made_anew(large, checkpoint, whole, small_pieces, tree_of, tmp_path):
    class Damages(Quick):
        def _piece(self, task):
            if isinstance(task, LevelTask) and task.shards[0][0] == 2:
                spoil(tmp_path / "masks/a.tif.zarr/1/c/0/0", "truncate", 0)
            return super()._piece(task)

    chosen = settings(large, checkpoint, tmp_path, workers=0)
    done = segment(chosen, worker_class=Damages)
    assert {failure.path for failure in done.ledger.failures} == {"a.tif"}
    assert "a level of its pyramid is damaged on disk" in done.ledger.failures[0].reason
    again = segment(chosen, worker_class=Quick)
    assert not again.ledger.failures
    assert again.ledger.computed == 0
    assert tree_of(tmp_path / "masks") == whole


@pytest.fixture
def by_value():
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(model_free)
    yield
    cloudpickle.unregister_pickle_by_value(model_free)


@pytest.mark.ray
@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_workers_that_die_between_pieces(
    large, checkpoint, whole, small_pieces, tree_of, tmp_path, ray_session, by_value, workers
):
    class DiesTwice(Quick):
        def _piece(self, task):
            flag = tmp_path / type(task).__name__
            last = isinstance(task, LevelTask) and task.shards[0] == (2, 2, 0)
            if (last or isinstance(task, AuditTask)) and not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._piece(task)

    chosen = settings(large, checkpoint, tmp_path / "run", workers=workers)
    done = segment(chosen, worker_class=DiesTwice)
    assert (tmp_path / "LevelTask").exists()
    assert (tmp_path / "AuditTask").exists()
    assert not done.ledger.failures
    assert tree_of(tmp_path / "run/masks") == whole
