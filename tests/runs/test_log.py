"""The log of a run: what happened, when, how long and by whom; warnings of slow and stuck shards; no result depends on it."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
from PIL import Image

from microseg_ray.runs.folder import LOG_FILES
from microseg_ray.runs.log import Patience, RunLog, Watched
from microseg_ray.runs.segment import segment
from microseg_ray.runs.status import run_status
from microseg_ray.runs.tasks import Outcome, PrepareTask, ShardTask
from microseg_ray.runs.worker import ArchiveWorker
from microseg_ray.settings import SegmentSettings
from microseg_ray.sources import View


def events(folder, name=LOG_FILES[0]):
    return [json.loads(line) for line in (folder / name).read_text("utf-8").splitlines()]


def settings_of(folder, checkpoint):
    return SegmentSettings(
        archive=str(folder / "images"), checkpoint=str(checkpoint), output=str(folder / "run"), workers=0, shard=64,
        path="tiles",
    )  # fmt: skip


@pytest.fixture
def images(tmp_path):
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (100, 60), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images/a.png")
    (tmp_path / "images/bad.png").write_bytes(b"")
    return tmp_path


def test_every_task_is_a_line(images, checkpoint):
    segment(settings_of(images, checkpoint))
    found = events(images / "run")
    assert [each["event"] for each in found] == [
        "begin", "prepared", "failed", "surveyed", "shard", "shard", "finished", "end"
    ]  # fmt: skip
    assert {each["run"] for each in found} == {str(images / "run")}
    times = [datetime.fromisoformat(each["time"]) for each in found]
    assert times == sorted(times)
    shards = [each for each in found if each["event"] == "shard"]
    assert [(each["micrograph"], each["shard"]) for each in shards] == [("a.png", [0, 0]), ("a.png", [1, 0])]
    assert all(each["seconds"] > 0 and each["worker"].endswith(f":{os.getpid()}") for each in shards)
    failed = next(each for each in found if each["event"] == "failed")
    assert (failed["micrograph"], failed["stage"]) == ("bad.png", "open")
    assert "the file is empty" in failed["reason"]
    surveyed = next(each for each in found if each["event"] == "surveyed")
    assert (surveyed["micrographs"], surveyed["shards"]) == (2, 2)


class _Dies(ArchiveWorker):
    def do(self, task):
        if isinstance(task, ShardTask) and task.shard == (1, 0):
            raise KeyboardInterrupt
        return super().do(task)


def test_status_knows_what_failed_in_a_session_that_was_cut_off(images, checkpoint):
    with pytest.raises(KeyboardInterrupt):
        segment(settings_of(images, checkpoint), worker_class=_Dies)
    assert events(images / "run")[-1]["event"] == "interrupted"
    assert not (images / "run/failures.csv").exists()
    found = run_status(images / "run")
    assert [(each.path, each.stage) for each in found.failures] == [("bad.png", "open")]
    assert (found.shards_done, found.shards, found.finished, found.not_begun) == (1, 2, 0, 0)
    segment(settings_of(images, checkpoint))
    found = run_status(images / "run")
    assert (found.shards_done, found.finished, len(found.failures), found.complete) == (2, 1, 1, True)
    # The second session goes on in the same file.
    assert [each["event"] for each in events(images / "run")].count("begin") == 2


def test_the_log_is_rotated_and_two_files_are_kept(tmp_path):
    log = RunLog(tmp_path, most=2000)
    for number in range(100):
        log.write("shard", number=number)
    log.close()
    kept = [each["number"] for name in reversed(LOG_FILES) for each in events(tmp_path, name)]
    assert kept == list(range(kept[0], 100))
    assert all((tmp_path / name).stat().st_size < 2200 for name in LOG_FILES)


def outcome(seconds):
    view = View((64, 64))
    return Outcome(
        ShardTask("a.tif", "a.tif", "a.zarr", view, (0.0, 1.0), (0, 3)), ok=True, seconds=seconds, worker="h:1"
    )


class _Given:
    def __init__(self, outcomes, wait=None):
        self.outcomes, self.wait = outcomes, wait

    def run(self, _pending):
        for each in self.outcomes:
            if self.wait is not None and each.seconds > 1:
                assert self.wait.wait(20)
            yield each

    def close(self):
        pass


def test_a_slow_shard_is_told(tmp_path):
    warned = []
    given = [outcome(0.5)] * 30 + [outcome(9.0), outcome(12.0)] + [replace(outcome(99.0), ok=False, reason="torn")]
    log = RunLog(tmp_path)
    assert list(Watched(_Given(given), log, warned.append).run([])) == given
    log.close()
    assert warned == ["slow: shard [0, 3] of a.tif took 12 s, 0.5 s are usual (h:1)"]
    slow = [each for each in events(tmp_path) if each["event"] == "slow"]
    assert [(each["seconds"], each["usual_seconds"]) for each in slow] == [(12.0, 0.5)]


def test_a_run_that_stands_still_is_told_once(tmp_path):
    told = threading.Event()
    warned = []

    def warn(line):
        warned.append(line)
        told.set()

    log = RunLog(tmp_path)
    prepared = Outcome(PrepareTask("a.tif", "a.tif", "a.zarr"), ok=True)
    given = _Given([prepared, outcome(0.001), outcome(2.0)], told)
    assert len(list(Watched(given, log, warn, Patience(stuck=0.2)).run([]))) == 3
    log.close()
    assert len(warned) == 1
    assert warned[0].startswith("stuck: nothing was done for")
    assert [each["event"] for each in events(tmp_path)] == ["prepared", "shard", "stuck", "shard"]
