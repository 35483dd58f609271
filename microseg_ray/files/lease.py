"""The lock of a folder in an object store, which has no locks: an object that its holder writes anew every few seconds.

`FOLDER/.lock` says who writes there, and its epoch. It is only ever written on the condition that it is still as it was read
(`If-Match`, `If-None-Match`), so that of several jobs one gets it. A second job looks at it for some seconds: where it changes,
its holder lives. Where it has not changed for `LEASE_SECONDS` by the clock of the one who looks, its holder is gone, and the lock
is taken over with a new epoch. No clock is compared with another's.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import UNREADABLE, MicrosegError, ObjectStoreError, RunMismatchError
from microseg_ray.files.places import LOCK_FILE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from microseg_ray.files.objects import ObjectPath

__all__ = ["BEAT_SECONDS", "GRACE_SECONDS", "LEASE_SECONDS", "LeaseRecord", "held_epoch", "leased", "read_lease"]

BEAT_SECONDS = 5.0
"""How often a holder writes its lock anew."""
LEASE_SECONDS = 30.0
"""A lock that did not change for so long has no holder any more."""
GRACE_SECONDS = 15.0
"""After a lock was taken over: time for a write of an older worker to end that had looked at the lock before."""

_held: dict[str, str] = {}
"""Epochs of the locks that this process holds, by address of the folder."""


@dataclass(frozen=True)
class LeaseRecord:
    """What a lock says.

    Attributes:
        epoch: The mark of the job that wrote it.
        owner: Host and process of the job.
        since: When it began, by its clock.
        beat: How often it was written.
        free: The job came to its end.
    """

    epoch: str
    owner: str
    since: str
    beat: int = 0
    free: bool = False

    def as_bytes(self) -> bytes:
        """The content of the object."""
        return json.dumps(vars(self), sort_keys=True).encode()


def read_lease(folder: ObjectPath) -> tuple[LeaseRecord | None, str | None]:
    """What the lock of a folder says, and its entity tag; None and None where there is none.

    Raises:
        RunMismatchError: Something else lies there.
        ObjectStoreError: The store cannot be reached.
    """
    path = folder / LOCK_FILE
    try:
        content, tag = path.read_version()
    except FileNotFoundError:
        return None, None
    try:
        found: dict[str, Any] = json.loads(content)
        record = LeaseRecord(
            str(found["epoch"]), str(found["owner"]), str(found["since"]), int(found["beat"]), found["free"] is True
        )
    except UNREADABLE as error:
        raise RunMismatchError(
            f"{path}: no lock of microseg_ray ({error}); delete the object if no job writes here, or give another output"
        ) from error
    return record, tag


def held_epoch(folder: ObjectPath) -> str:
    """The epoch under which this process writes into a folder.

    Raises:
        RunMismatchError: It does not hold the lock.
    """
    if str(folder) not in _held:
        raise RunMismatchError(f"{folder}: this process does not hold the lock; begin inside `sole_writer`")
    return _held[str(folder)]


@contextlib.contextmanager
def leased(folder: ObjectPath) -> Iterator[None]:
    """Hold the lock of a folder inside the block.

    Raises:
        RunMismatchError: Another job holds it; the message names host and process.
        ObjectStoreError: The store cannot be reached, or cannot write on a condition.
    """
    if str(folder) in _held:
        raise RunMismatchError(f"{folder}: this process is writing here already; wait for it, or give another output")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    own = LeaseRecord(uuid.uuid4().hex, f"{socket.gethostname()}:{os.getpid()}", now)
    tag, taken_over = _acquire(folder, own)
    _held[str(folder)] = own.epoch
    over = threading.Event()
    keeper = threading.Thread(target=_keep, args=(folder, own, [tag], over), daemon=True)
    keeper.start()
    try:
        if taken_over:
            time.sleep(GRACE_SECONDS)
        yield
    finally:
        over.set()
        keeper.join()
        del _held[str(folder)]
        _release(folder, own)


def _acquire(folder: ObjectPath, own: LeaseRecord) -> tuple[str, bool]:
    """Take the lock: its entity tag, and whether it was taken from a job that did not give it back."""
    found, tag = read_lease(folder)
    seen, since = tag, time.monotonic()
    while found is not None and not found.free and time.monotonic() - since < LEASE_SECONDS:
        time.sleep(min(1.0, BEAT_SECONDS / 5))
        found, tag = read_lease(folder)
        if tag != seen and found is not None and not found.free:
            raise _refusal(folder, found)
    new = (folder / LOCK_FILE).write_if(own.as_bytes(), tag)
    if new is None:
        # A request that was repeated may have been done the first time.
        other, new = read_lease(folder)
        if other is None or new is None or other.epoch != own.epoch:
            raise _refusal(folder, other)
    if (folder / LOCK_FILE).write_if(own.as_bytes(), None) is not None:
        raise ObjectStoreError(
            f"{folder}: this object store ignores conditions of a write (If-None-Match), so a second job could write here at the "
            "same time; give another store, or a folder"
        )
    return new, found is not None and not found.free


def _refusal(folder: ObjectPath, other: LeaseRecord | None) -> RunMismatchError:
    who = "another job" if other is None else f"another job (process {other.owner}, since {other.since})"
    return RunMismatchError(f"{folder}: {who} is writing here; wait for it, or give another output")


def _keep(folder: ObjectPath, own: LeaseRecord, tags: list[str], over: threading.Event) -> None:
    """Write the lock anew until the job is over, or has lost it: its writes are refused then (`fence`)."""
    beat = 0
    while not over.wait(BEAT_SECONDS):
        beat += 1
        record = LeaseRecord(own.epoch, own.owner, own.since, beat)
        # An outage of the store is no reason to stop: who comes back in time still holds the lock.
        with contextlib.suppress(ObjectStoreError):
            tag = (folder / LOCK_FILE).write_if(record.as_bytes(), tags[-1])
            if tag is None:
                found, tag = read_lease(folder)
                if found is None or found.epoch != own.epoch or tag is None:
                    return
            tags.append(tag)
            del tags[0]


def _release(folder: ObjectPath, own: LeaseRecord) -> None:
    """Say that the job is over, unless another one has the lock now; where that fails, the lease runs out."""
    with contextlib.suppress(MicrosegError):
        found, tag = read_lease(folder)
        if found is not None and found.epoch == own.epoch:
            free = LeaseRecord(own.epoch, own.owner, own.since, found.beat + 1, free=True)
            (folder / LOCK_FILE).write_if(free.as_bytes(), tag)
