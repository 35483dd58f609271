"""A store that fails, and jobs that die: retried or resumed, with the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import numpy as np
import pytest

from microseg_ray.errors import ObjectStoreError, StoreError
from microseg_ray.files import ObjectPath, client
from microseg_ray.files.lease import read_lease
from microseg_ray.geometry import Box
from microseg_ray.on_ray.actors import segment
from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.settings import SegmentSettings
from microseg_ray.sources import open_micrograph
from tests.on_object_store.faulty import KINDS, Faults, FaultyProxy

SHARDS = 15


def settings(archive, checkpoint, output, **options) -> SegmentSettings:
    chosen = {"shard": 256, "workers": 0, "fingerprint": "content"}
    where = {"archive": str(archive), "checkpoint": str(checkpoint), "output": str(output)}
    return SegmentSettings(**{**where, **chosen, **options})


@pytest.fixture
def quick(monkeypatch):
    """Requests that are given up soon, so that stalls cost less than a test has."""
    monkeypatch.setattr(client, "_ANSWER", timedelta(seconds=2))
    monkeypatch.setattr(client, "_LONGEST_PAUSE", timedelta(milliseconds=300))


@pytest.fixture
def faulty(server, bucket, monkeypatch):
    """`faulty(faults)`: the environment leads through a proxy with these faults."""
    running = []

    def start(faults: Faults) -> Faults:
        proxy = FaultyProxy(server.url, faults)
        running.append(proxy)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        return faults

    yield start
    for proxy in running:
        proxy.shutdown()
        proxy.server_close()


@pytest.mark.parametrize("kind", KINDS)
def test_each_fault_is_tried_again(bucket, faulty, quick, kind):
    faults = faulty(Faults(share=0.3, kinds=(kind,), stall=2.5 if kind == "stall" else 0, seed=3))
    path = bucket / "a" / "b"
    for number in range(4):
        path.write(str(number).encode())
        assert path.read_bytes() == str(number).encode()
        assert [str(each) for each in (bucket / "a").iterdir()] == [str(path)]
        # A deletion is a POST, which the client itself does not send again.
        path.unlink()
        path.write(b"x")
        (bucket / "a").delete_below()
        assert list((bucket / "a").iterdir()) == []
    assert faults.injected[kind] > 0


def test_a_condition_whose_answer_is_lost_is_no_other_job(bucket, faulty, quick):
    """The write is done, the answer is lost, and the write that is tried again finds the object that it made itself."""
    from microseg_ray.files import sole_writer

    faults = faulty(Faults(share=0.4, kinds=("lost answer",), seed=1))
    for _ in range(6):
        with sole_writer(bucket / "run"):
            record, _ = read_lease(bucket / "run")
            assert record is not None
            assert not record.free
    assert faults.injected["lost answer"] > 3


def test_a_store_that_stays_away_stops_the_run_with_advice(bucket, faulty, monkeypatch):
    monkeypatch.setattr(client, "_TRIES", 1)
    faulty(Faults(share=1.0, kinds=("503",)))
    with pytest.raises(ObjectStoreError, match=r"did not do what was asked.*SlowDown.*AWS_ENDPOINT_URL"):
        (bucket / "a").write(b"")


@pytest.mark.slow
def test_a_run_through_a_faulty_store_has_the_same_bytes(local_run, stored, bucket, faulty, quick, objects_of):
    faults = faulty(Faults(share=0.08, stall=2.5, seed=5))
    there = segment(settings(stored / "archive", stored / "best", bucket / "run"))
    assert not there.ledger.failures
    assert there.ledger.computed == SHARDS
    local, remote = objects_of(local_run), objects_of(bucket / "run")
    assert local.keys() == remote.keys()
    assert {name for name in local if local[name] != remote[name]} == {"run.json"}
    assert set(faults.injected) == set(KINDS), faults


@pytest.mark.slow
def test_an_outage_stops_the_run_and_the_same_command_goes_on(
    local_run, stored, bucket, server, objects_of, monkeypatch
):
    monkeypatch.setattr(client, "_TRIES", 1)

    def report(progress) -> None:
        if progress.shards_done == 3:
            monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    with pytest.raises((StoreError, ObjectStoreError), match="object store did not do what was asked"):
        segment(settings(stored / "archive", stored / "best", bucket / "run"), report=report)
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    done = segment(settings(stored / "archive", stored / "best", bucket / "run"))
    assert not done.ledger.failures
    local, remote = objects_of(local_run), objects_of(bucket / "run")
    assert {name for name in local if local[name] != remote[name]} == {"run.json"}


def shards_done(output: ObjectPath) -> int:
    try:
        run = Run.open(output)
    except StoreError:
        return 0
    return sum(int((MaskStore.open(run.store_path(name)).counts >= 0).all(axis=-1).sum()) for name in run.names())


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_job_is_resumed_with_the_same_bytes(local_run, stored, bucket, secret, objects_of, tmp_path, workers):
    command = [
        *(sys.executable, "-m", "microseg_ray.cli", "segment", "--archive", str(stored / "archive"), "--shard", "256"),
        *("--checkpoint", str(stored / "best"), "--output", str(bucket / "run"), "--fingerprint", "content"),
        *("--workers", str(workers), "--runtime", "torch"),
    ]
    with (tmp_path / "first.txt").open("w") as said:
        killed = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)
        deadline = time.monotonic() + 300
        while shards_done(bucket / "run") < 2:
            assert killed.poll() is None, (tmp_path / "first.txt").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    assert 0 < shards_done(bucket / "run") < SHARDS
    assert not read_lease(bucket / "run")[0].free
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr[-2000:]
    local, remote = objects_of(local_run), objects_of(bucket / "run")
    assert local.keys() == remote.keys()
    assert {name for name in local if local[name] != remote[name]} == {"run.json"}
    for text in (second.stdout, second.stderr, (tmp_path / "first.txt").read_text()):
        assert secret not in text


def test_a_tiled_micrograph_is_read_in_blocks_and_not_tile_by_tile(archive, stored, bucket, faulty):
    faults = faulty(Faults(share=0.0))
    with (
        open_micrograph(str(stored / "archive" / "large.tif")) as there,
        open_micrograph(archive / "large.tif") as here,
    ):
        box = Box(0, 0, *here.info.shape)
        assert np.array_equal(there.read(box), here.read(box))
    tiles = 10 * 11
    assert faults.requests < tiles / 10
