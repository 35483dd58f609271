"""Workers that die, stall and fail: the same bytes in the end, and nothing innocent is lost."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import uuid

import numpy as np
import pytest
import tifffile

from microseg_ray.errors import MicrosegError
from microseg_ray.on_ray import actors as segmentation
from microseg_ray.on_ray.actors import segment
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.worker import ArchiveWorker
from tests.faults.model_free import Quick
from tests.faults.runs import settings

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("classes_travel")]


def reference_of(archive, checkpoint, folder, tree_of, worker_class):
    segment(settings(archive, checkpoint, folder, workers=0), worker_class=worker_class)
    return tree_of(folder / "masks")


@pytest.fixture(scope="module")
def quick(archive, checkpoint, tmp_path_factory, tree_of):
    """The bytes of the plain loop with the quick model."""
    return reference_of(archive, checkpoint, tmp_path_factory.mktemp("quick") / "run", tree_of, Quick)


@pytest.fixture(scope="module")
def whole(archive, checkpoint, tmp_path_factory, tree_of):
    """The bytes of the plain loop with the real model."""
    return reference_of(archive, checkpoint, tmp_path_factory.mktemp("whole") / "run", tree_of, ArchiveWorker)


@pytest.mark.parametrize(
    "workers", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)]
)
def test_any_number_of_workers_and_any_order(
    archive, checkpoint, whole, tree_of, tmp_path, ray_session, monkeypatch, workers
):
    class Shuffled(segmentation.ActorPool):
        def run(self, pending):
            waiting = []
            while pending:
                waiting.append(pending.popleft())
            random.Random(workers).shuffle(waiting)
            for task in waiting:
                pending.appendleft(task)
            return super().run(pending)

    monkeypatch.setattr(segmentation, "ActorPool", Shuffled)
    result = segment(settings(archive, checkpoint, tmp_path / "run", workers=workers))
    assert result.ledger.computed == 15
    assert tree_of(tmp_path / "run/masks") == whole


@pytest.mark.openvino
def test_one_worker_and_two_give_the_same_bytes_in_strips(checkpoint, tree_of, tmp_path, ray_session):
    """One worker computes the micrograph as one band, two divide it; it is large enough for strips."""
    pixels = np.random.default_rng(5).integers(0, 256, (188, 128), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    archive = tmp_path / "archive"
    archive.mkdir()
    tifffile.imwrite(archive / "one.tif", pixels)
    made = {}
    for workers in (0, 2):
        result = segment(settings(archive, checkpoint, tmp_path / str(workers), workers=workers, path="strips"))
        assert result.ledger.computed == 24
        assert result.run.identity.pixels["path"] == "strips"
        made[workers] = tree_of(tmp_path / str(workers) / "masks")
    assert made[0] == made[2]


def test_a_worker_killed_in_the_middle(archive, checkpoint, quick, tree_of, tmp_path, ray_session):
    flag = tmp_path / "died"

    class DiesOnce(Quick):
        def _shard(self, task):
            if task.shard == (1, 1) and not flag.exists():
                flag.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._shard(task)

    result = segment(settings(archive, checkpoint, tmp_path / "run"), worker_class=DiesOnce)
    assert flag.exists()
    assert not result.ledger.failures
    assert result.ledger.computed == 15
    assert tree_of(tmp_path / "run/masks") == quick


def test_a_shard_that_kills_every_worker(archive, checkpoint, quick, tree_of, tmp_path, ray_session):
    """Given up after three tries; no shard that only was nearby is given up, and a later run completes it."""
    deaths = tmp_path / "deaths"
    deaths.mkdir()

    class Poisoned(Quick):
        def _shard(self, task):
            if task.name == "large.tif" and task.shard == (0, 1):
                (deaths / uuid.uuid4().hex).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._shard(task)

    result = segment(settings(archive, checkpoint, tmp_path / "run"), worker_class=Poisoned)
    assert [(failure.path, failure.stage) for failure in result.ledger.failures] == [("large.tif", "shard 0,1")]
    assert "given up after 3 tries: its worker died" in result.ledger.failures[0].reason
    assert len(list(deaths.iterdir())) == 3
    assert result.ledger.computed == 14
    assert MaskStore.open(result.run.store_path("large.tif")).missing() == [(0, 1)]
    assert {row.micrograph for row in result.areas} == {"exact.tif", "2019/deep.tif", "2019/run #2 (a)/small.png"}
    again = segment(settings(archive, checkpoint, tmp_path / "run", workers=0), worker_class=Quick)
    assert again.ledger.computed == 1
    assert tree_of(tmp_path / "run/masks") == quick


@pytest.mark.slow
def test_two_poisons_at_one_try_each_cost_no_one_else(archive, checkpoint, tmp_path, ray_session):
    class Poisoned(Quick):
        def _shard(self, task):
            if task.name == "large.tif" and task.shard in {(0, 0), (0, 2)}:
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._shard(task)

    result = segment(settings(archive, checkpoint, tmp_path / "run", attempts=1), worker_class=Poisoned)
    assert sorted(failure.stage for failure in result.ledger.failures) == ["shard 0,0", "shard 0,2"]
    assert result.ledger.computed == 13


@pytest.mark.slow
def test_a_header_that_kills_its_worker_costs_no_other_of_its_group(
    checkpoint, tmp_path, ray_session, monkeypatch
):  # fmt: skip
    class Poisoned(Quick):
        def _prepare(self, task):
            if task.name == "05.tif":
                os.kill(os.getpid(), signal.SIGKILL)
            return super()._prepare(task)

    (tmp_path / "a").mkdir()
    for number in range(12):
        tifffile.imwrite(tmp_path / f"a/{number:02d}.tif", np.full((64, 64), 90 + number, np.uint8))
    monkeypatch.setattr(segmentation._Groups, "__init__", lambda groups: setattr(groups, "size", 4))
    chosen = settings(tmp_path / "a", checkpoint, tmp_path / "run", attempts=1, workers=1)
    result = segment(chosen, worker_class=Poisoned)
    assert [(failure.path, failure.stage) for failure in result.ledger.failures] == [("05.tif", "open")]
    assert "its worker died" in result.ledger.failures[0].reason
    assert result.ledger.computed == 11


def test_every_third_shard_failing(archive, checkpoint, quick, tree_of, tmp_path, ray_session):
    class Clumsy(Quick):
        def _shard(self, task):
            if (task.shard[0] + task.shard[1]) % 3 == 0:
                raise RuntimeError("slipped")
            return super()._shard(task)

    first = segment(settings(archive, checkpoint, tmp_path / "run"), worker_class=Clumsy)
    # Of 3 x 3: (0, 0), (1, 2), (2, 1); of 2 x 2 and of single shards: (0, 0).
    assert len(first.ledger.failures) == 3 + 1 + 1 + 1
    assert {failure.reason for failure in first.ledger.failures} == {"RuntimeError: slipped"}
    assert first.ledger.computed == 9
    again = segment(settings(archive, checkpoint, tmp_path / "run"), worker_class=Quick)
    assert again.ledger.computed == 6
    assert tree_of(tmp_path / "run/masks") == quick


@pytest.mark.slow
def test_a_shard_that_stalls(archive, checkpoint, quick, tree_of, tmp_path, ray_session):
    class Stalls(Quick):
        def _shard(self, task):
            if task.name == "large.tif" and task.shard == (2, 2):
                time.sleep(600)
            return super()._shard(task)

    result = segment(settings(archive, checkpoint, tmp_path / "run", attempts=1, shard_timeout=8), worker_class=Stalls)
    assert [failure.stage for failure in result.ledger.failures] == ["shard 2,2"]
    assert "no result within shard_timeout (8 s)" in result.ledger.failures[0].reason
    assert result.ledger.computed == 14
    segment(settings(archive, checkpoint, tmp_path / "run", workers=0), worker_class=Quick)
    assert tree_of(tmp_path / "run/masks") == quick


@pytest.mark.slow
def test_finishing_has_the_time_of_all_shards(archive, checkpoint, quick, tree_of, tmp_path, ray_session):
    """Size alone does not trip the time-out: the pyramid of nine shards may take longer than one shard."""

    class FinishesLate(Quick):
        def _finish(self, task):
            if task.name == "large.tif":
                time.sleep(12)
            return super()._finish(task)

    chosen = settings(archive, checkpoint, tmp_path / "run", attempts=1, shard_timeout=8)
    result = segment(chosen, worker_class=FinishesLate)
    assert result.ledger.failures == []
    assert tree_of(tmp_path / "run/masks") == quick


def test_workers_that_cannot_start_cost_no_input(archive, checkpoint, quick, tree_of, tmp_path, ray_session):
    class Unborn(Quick):
        def __init__(self, config):
            raise RuntimeError("no such library")

    with pytest.raises(
        MicrosegError, match=r"Ray cannot start workers.*no such library.*this is not caused by an input"
    ):
        segment(settings(archive, checkpoint, tmp_path / "run"), worker_class=Unborn)
    assert not (tmp_path / "run/failures.csv").exists()
    segment(settings(archive, checkpoint, tmp_path / "run", workers=0), worker_class=Quick)
    assert tree_of(tmp_path / "run/masks") == quick


def test_openvino_missing_on_one_of_two_workers_stops_the_run(archive, checkpoint, tmp_path, ray_session):
    flag = tmp_path / "first"

    class Lacks(ArchiveWorker):
        def __init__(self, config):
            super().__init__(config)
            try:
                flag.touch(exist_ok=False)
            except FileExistsError:
                return
            # As if it were not installed on this node.
            sys.modules["openvino"] = None

        def _shard(self, task):
            # The other worker leaves work for it.
            time.sleep(0 if sys.modules.get("openvino", 1) is None else 1)
            return super()._shard(task)

    with pytest.raises(MicrosegError, match=r"computed by openvino, which is missing on the node .+; install"):
        segment(settings(archive, checkpoint, tmp_path / "run", runtime="openvino"), worker_class=Lacks)
