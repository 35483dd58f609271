"""Drivers that are killed or told to stop: the same bytes in the end, and nothing of the first writes into the second."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import uuid

import numpy as np
import psutil
import pytest
import tifffile

from microseg_ray.errors import RunMismatchError
from microseg_ray.on_ray.actors import segment
from tests.faults.runs import settings


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """One micrograph of 256 shards of 64 px: a run of some seconds."""
    folder = tmp_path_factory.mktemp("many")
    pixels = np.random.default_rng(0).integers(0, 255, (1024, 1024), np.uint8)
    tifffile.imwrite(folder / "many.tif", pixels, tile=(128, 128))
    return folder


@pytest.fixture(scope="module")
def many_whole(many, checkpoint, tmp_path_factory, tree_of):
    folder = tmp_path_factory.mktemp("many_whole") / "run"
    segment(settings(many, checkpoint, folder, shard=64, workers=0))
    return tree_of(folder / "masks")


# A test run in the background has Ctrl-C ignored, and its children would inherit that.
START = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from microseg_ray.cli import main
sys.exit(main())
"""


class Driver:
    """`microseg segment --workers 2` in a process of its own, with all that it starts."""

    def __init__(self, many, checkpoint, output, folder):
        self.mark = uuid.uuid4().hex
        arguments = [
            "segment",
            "--archive",
            many,
            "--checkpoint",
            checkpoint,
            "--output",
            output,
            "--shard",
            64,
            "--workers",
            2,
            "--runtime",
            "torch",
        ]
        environment = {**os.environ, "RAY_TMPDIR": str(folder), "MSR_TEST_MARK": self.mark}
        self.process = subprocess.Popen(
            [sys.executable, "-c", START, *map(str, arguments)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.counts = output / "masks/many.tif.zarr/counts/c"

    def done(self) -> int:
        return sum(1 for path in self.counts.glob("*/*/0")) if self.counts.is_dir() else 0

    def wait_for(self, shards: int) -> None:
        deadline = time.monotonic() + 150
        while self.done() < shards:
            assert self.process.poll() is None, self.process.stdout.read()
            assert time.monotonic() < deadline, "nothing was done"
            time.sleep(0.02)

    def end(self, how: signal.Signals) -> tuple[int, str]:
        self.process.send_signal(how)
        output, _ = self.process.communicate(timeout=60)
        return self.process.returncode, output

    def left(self, seconds: float) -> list[str]:
        """What still runs of all that the driver started, after at most so many seconds."""
        deadline = time.monotonic() + seconds
        while (found := self._running()) and time.monotonic() < deadline:
            time.sleep(0.3)
        return found

    def _running(self) -> list[str]:
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("MSR_TEST_MARK") == self.mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline())[:80])
            except psutil.Error:
                continue
        return found

    def clean(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()


@pytest.fixture
def driver(many, checkpoint, ray_folder, tmp_path):
    made = []

    def start() -> Driver:
        made.append(Driver(many, checkpoint, tmp_path / "run", ray_folder))
        return made[-1]

    yield start
    for each in made:
        each.clean()


@pytest.mark.slow
def test_a_driver_killed_twice(driver, many, checkpoint, many_whole, tree_of, tmp_path):
    for shards in (40, 120):
        killed = driver()
        killed.wait_for(shards)
        killed.end(signal.SIGKILL)
        done = killed.done()
        assert shards <= done < 256
        assert killed.left(15) == []
    result = segment(settings(many, checkpoint, tmp_path / "run", shard=64, workers=0))
    assert 0 < result.ledger.computed <= 256 - done
    assert tree_of(tmp_path / "run/masks") == many_whole


@pytest.mark.slow
def test_a_run_that_follows_a_killed_driver_at_once(driver, many, checkpoint, many_whole, tree_of, tmp_path):
    """The killed driver's workers may still be there."""
    killed = driver()
    killed.wait_for(40)
    killed.process.send_signal(signal.SIGKILL)
    killed.process.wait()
    segment(settings(many, checkpoint, tmp_path / "run", shard=64, workers=0))
    assert tree_of(tmp_path / "run/masks") == many_whole
    killed.left(15)
    assert tree_of(tmp_path / "run/masks") == many_whole


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_driver_told_to_stop(driver, many, checkpoint, many_whole, tree_of, tmp_path, how):
    """It stops in good order, keeps a second job out until then, and another run goes on from there."""
    stopped = driver()
    stopped.wait_for(40)
    before = tree_of(tmp_path / "run/masks").keys()
    with pytest.raises(RunMismatchError, match="another job is writing"):
        segment(settings(many, checkpoint, tmp_path / "run", shard=64, workers=0, overwrite=True))
    code, printed = stopped.end(how)
    assert code == 130, printed
    assert "the same command goes on from here" in printed
    assert "Traceback" not in printed
    assert stopped.left(15) == []
    assert before <= tree_of(tmp_path / "run/masks").keys()
    done = stopped.done()
    assert done < 256
    result = segment(settings(many, checkpoint, tmp_path / "run", shard=64, workers=0))
    assert 0 < result.ledger.computed <= 256 - done + 4
    assert tree_of(tmp_path / "run/masks") == many_whole
    shutil.rmtree(tmp_path / "run")
