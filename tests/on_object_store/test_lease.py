"""The lock of a folder in an object store: one holder at a time, none that stays behind, and no write under an older epoch."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from microseg_ray.errors import FencedError, ObjectStoreError, RunMismatchError
from microseg_ray.fence import Fence
from microseg_ray.files import LOCK_FILE, ObjectPath, lease, sole_writer
from microseg_ray.files.lease import LeaseRecord, read_lease
from microseg_ray.runs import status

OTHER = LeaseRecord("their-epoch", "node7:4711", "2026-01-01T00:00:00+00:00")


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(lease, "GRACE_SECONDS", 0.1)


def put(folder: ObjectPath, record: LeaseRecord) -> None:
    (folder / LOCK_FILE).write(record.as_bytes())


def test_the_lock_is_held_and_given_back(bucket):
    folder = bucket / "run"
    with sole_writer(folder):
        first, _ = read_lease(folder)
        assert first is not None
        assert not first.free
    last, _ = read_lease(folder)
    assert last is not None
    assert (last.epoch, last.free) == (first.epoch, True)
    with sole_writer(folder):
        assert read_lease(folder)[0].epoch != first.epoch


def test_a_second_job_is_refused_with_the_name_of_the_first(bucket):
    folder, over = bucket / "run", threading.Event()
    put(folder, OTHER)

    def beat() -> None:
        count = 0
        while not over.wait(0.2):
            count += 1
            put(folder, replace(OTHER, beat=count))

    other = threading.Thread(target=beat)
    other.start()
    try:
        with (
            pytest.raises(RunMismatchError, match=r"another job \(process node7:4711, since 2026-01-01.*wait for it"),
            sole_writer(folder),
        ):
            pass
    finally:
        over.set()
        other.join()
    assert read_lease(folder)[0].epoch == OTHER.epoch


def test_the_lock_of_a_job_that_is_gone_is_taken_over(bucket):
    folder = bucket / "run"
    put(folder, OTHER)
    with sole_writer(folder):
        assert read_lease(folder)[0].epoch != OTHER.epoch


def test_the_holder_writes_it_anew(bucket):
    folder = bucket / "run"
    with sole_writer(folder):
        beats = set()
        while len(beats) < 3:
            beats.add(read_lease(folder)[0].beat)


def test_only_the_job_that_holds_the_lock_writes(bucket):
    folder = bucket / "run"
    with sole_writer(folder):
        older = Fence.raised(folder)
        with older.writing():
            pass
    with pytest.raises(FencedError, match="nothing of this one is written"), older.writing():
        pytest.fail("written after its job had ended")
    with sole_writer(folder):
        newer = Fence.raised(folder)
        with pytest.raises(FencedError), older.writing():
            pytest.fail("written under an older epoch")
        with newer.writing():
            pass
        put(folder, OTHER)
        with pytest.raises(FencedError), newer.writing():
            pytest.fail("written after another job had taken the lock")
    assert read_lease(folder)[0] == OTHER, "a lock that another one has is not given back"


def test_a_lock_that_is_taken_while_a_shard_is_written_ends_the_job(bucket):
    folder = bucket / "run"
    with sole_writer(folder):
        fence = Fence.raised(folder)
        with pytest.raises(FencedError), fence.writing():
            put(folder, OTHER)


def test_status_names_the_holder_and_its_machine(bucket):
    put(bucket / "run", OTHER)
    lock = bucket / "run" / LOCK_FILE
    written = lock.stat().st_mtime
    assert status._writer(lock, written) == ("writing", 4711, "node7")
    assert status._writer(lock, written + status.LEASE_SECONDS + 1) == ("none", None, None), "it did not write for long"
    put(bucket / "run", replace(OTHER, free=True))
    assert status._writer(lock, written) == ("none", None, None)


def test_something_else_in_its_place_is_left_alone(bucket):
    folder = bucket / "run"
    (folder / LOCK_FILE).write(b"my notes")
    with pytest.raises(RunMismatchError, match="no lock of microseg_ray"), sole_writer(folder):
        pass
    assert (folder / LOCK_FILE).read_bytes() == b"my notes"


def test_a_store_that_ignores_conditions_is_refused(bucket, monkeypatch):
    real = ObjectPath.write_if
    monkeypatch.setattr(ObjectPath, "write_if", lambda path, content, tag: real(path, content, tag) or "ignored")
    with pytest.raises(ObjectStoreError, match="ignores conditions"), sole_writer(bucket / "run"):
        pass


def test_no_bucket_and_no_credentials_are_named(bucket, monkeypatch):
    with (
        pytest.raises(ObjectStoreError, match="there is no such bucket"),
        sole_writer(ObjectPath("no-such-bucket", "run")),
    ):
        pass
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(Exception, match="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"), sole_writer(bucket / "run"):
        pass
