"""Workers that die, stall and fail, drivers that are killed: the same bytes in the end, and nothing innocent is lost."""

from __future__ import annotations

import os
import random
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

from microseg_ray.errors import MicrosegError, RunMismatchError
from microseg_ray.on_ray import actors as segmentation
from microseg_ray.on_ray.actors import segment
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.worker import ArchiveWorker
from microseg_ray.settings import SegmentSettings
from tests.faults.model_free import Quick

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("classes_travel")]


def settings(archive, checkpoint, output, **options) -> SegmentSettings:
    chosen = {"archive": str(archive), "checkpoint": str(checkpoint), "output": str(output), "shard": 256, "workers": 2}
    return SegmentSettings(**{**chosen, **options})


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


# --- drivers: processes of their own, each with a Ray of its own -----------------------------------------------------


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
