"""Workers that outlive their driver: what they compute late does not reach the run of the next job."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from microseg_ray.errors import FencedError, RunMismatchError
from microseg_ray.fence import Fence
from microseg_ray.files import EPOCH_FILE
from microseg_ray.runs.segment import segment
from microseg_ray.settings import SegmentSettings
from tests.faults.model_free import Quick

DRIVER = """
import pickle, subprocess, sys, time
from pathlib import Path
from microseg_ray.runs.segment import segment
from microseg_ray.settings import SegmentSettings
from tests.faults.model_free import Quick

place = Path(sys.argv[1])

class Hands(Quick):
    '''Gives one shard to a process of its own and waits for it, as a pool does.'''

    def _shard(self, task):
        if task.name == "large.tif" and task.shard == (1, 1):
            (place / "task").write_bytes(pickle.dumps((self.config, task)))
            subprocess.run([sys.executable, "-c", (place / "orphan.py").read_text(), str(place)])
        return super()._shard(task)

segment(SegmentSettings(**eval((place / "settings").read_text())), worker_class=Hands)
"""

ORPHAN = """
import json, os, pickle, sys, time
from pathlib import Path
import numpy as np
from tests.faults.model_free import Quick

place = Path(sys.argv[1])
config, task = pickle.loads((place / "task").read_bytes())

class Slow(Quick):
    '''Computes for as long as the test wants, and something else than the others.'''

    def _pixels_of(self, task, box):
        result = super()._pixels_of(task, box)
        (place / "pid.new").write_text(str(os.getpid()))
        (place / "pid.new").replace(place / "pid")
        while not (place / "go").exists():
            time.sleep(0.02)
        result.mask[:] = 2 - np.minimum(result.mask, 2)
        return result

outcome = Slow(config).do(task)
(place / "outcome.new").write_text(json.dumps([outcome.ok, outcome.fatal, outcome.reason]))
(place / "outcome.new").replace(place / "outcome")
"""


def wait_for(path: Path, process=None) -> str:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < deadline, path
        assert process is None or process.poll() is None, process.stdout.read()
        time.sleep(0.02)
    return path.read_text()


@pytest.mark.parametrize("overwrite", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_late_shard_of_a_killed_driver_is_refused(archive, checkpoint, tree_of, tmp_path, overwrite):
    def given(output, **more):
        chosen = {
            "archive": str(archive),
            "checkpoint": str(checkpoint),
            "shard": 256,
            "workers": 0,
            "runtime": "torch",
        }
        return {**chosen, "output": str(output), **more}

    (tmp_path / "orphan.py").write_text(ORPHAN)
    (tmp_path / "settings").write_text(repr(given(tmp_path / "run")))
    driver = subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        orphan = psutil.Process(int(wait_for(tmp_path / "pid", driver)))
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        assert orphan.is_running()
        # With other settings the orphan's shard would be one of another run; with the same, one of an older try.
        more = {"overwrite": True, "tta": True} if overwrite else {}
        result = segment(SegmentSettings(**given(tmp_path / "run", **more)), worker_class=Quick)
        assert result.ledger.failures == []
        after = tree_of(tmp_path / "run/masks")
        assert orphan.is_running()
        (tmp_path / "go").touch()
        ok, fatal, reason = json.loads(wait_for(tmp_path / "outcome"))
    finally:
        (tmp_path / "go").touch()
        driver.kill()
        driver.wait()
        driver.stdout.close()
    assert (ok, fatal) == (False, True)
    assert "another job has begun to write here" in reason
    assert tree_of(tmp_path / "run/masks") == after
    segment(SegmentSettings(**given(tmp_path / "fresh", **more)), worker_class=Quick)
    assert tree_of(tmp_path / "fresh/masks") == after


HOLDER = """
import sys, time
from microseg_ray.fence import Fence

with Fence(sys.argv[1], sys.argv[2]).writing():
    print("writing", flush=True)
    time.sleep(600)
"""


def test_a_job_waits_for_a_write_that_has_begun(tmp_path):
    """Also for one of a process that was stopped in the middle of it."""
    fence = Fence.raised(tmp_path)
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, fence.folder, fence.epoch], stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"writing\n"
        holder.send_signal(signal.SIGSTOP)
        with pytest.raises(RunMismatchError, match="a worker of an earlier job is in the middle of a write"):
            Fence.raised(tmp_path, wait=0.2)
        # Refused, so the older job is still the one that writes.
        with fence.writing():
            pass
    finally:
        holder.kill()
        holder.communicate()
    newer = Fence.raised(tmp_path, wait=0.2)
    with newer.writing():
        pass
    with pytest.raises(FencedError, match="another job has begun"), fence.writing():
        pass


@pytest.mark.parametrize("harm", ["removed", "emptied", "other"])
def test_a_damaged_epoch_lets_nobody_write(tmp_path, harm):
    fence = Fence.raised(tmp_path)
    path = tmp_path / EPOCH_FILE
    if harm == "removed":
        path.unlink()
    else:
        path.write_bytes(b"" if harm == "emptied" else os.urandom(80))
    with pytest.raises(FencedError), fence.writing():
        pass
