"""The epoch of an output folder: a worker whose job is over cannot write there any more.

A job that is killed may leave a worker behind that still computes. The lock of the folder goes with the job, so the next job
can begin, and a late write of the older worker would fall into its results. Each job therefore raises the epoch, and each write
of a worker compares it under a shared lock, so that the comparison and the write are one step.

In an object store the epoch is that of the lock, which each write reads before it begins and after it is done. There the two are
no one step: a job that takes a lock over waits for a while before it writes (docs/decisions/0167-object-storage.md).
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from microseg_ray.errors import FencedError, RunMismatchError
from microseg_ray.files import EPOCH_FILE, ObjectPath, place, sync
from microseg_ray.files.lease import held_epoch, read_lease

if TYPE_CHECKING:
    from collections.abc import Iterator

    from microseg_ray.files import Where

try:
    import fcntl
except ImportError:  # Windows: epochs are compared, without a lock
    fcntl = None  # type: ignore[assignment]

__all__ = ["WAIT_SECONDS", "Fence"]

WAIT_SECONDS = 60.0
"""Seconds that a job waits at its start for a write of an older worker to end."""

_LONGEST = 64


@dataclass(frozen=True)
class Fence:
    """What a worker needs to write into a folder while its job lives; can be pickled.

    Attributes:
        folder: The output folder, or its address in an object store.
        epoch: The job's own mark.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     older = Fence.raised(folder)
        ...     with older.writing():
        ...         pass
        ...     newer = Fence.raised(folder)
        ...     with older.writing():
        ...         pass
        Traceback (most recent call last):
            ...
        microseg_ray.errors.FencedError: ...: another job has begun to write here; nothing of this one is written any more
    """

    folder: str
    epoch: str

    @classmethod
    def raised(cls, folder: Where, wait: float = WAIT_SECONDS) -> Fence:
        """Begin a new epoch: from now on no worker of an older job can write; call it inside `sole_writer`.

        Args:
            folder: The output folder, which is there.
            wait: Seconds to wait for a write of an older worker that has begun.

        Raises:
            RunMismatchError: An older worker does not end its write.
        """
        found = place(folder)
        if isinstance(found, ObjectPath):
            return cls(str(found), held_epoch(found))
        own = cls(os.path.abspath(found), uuid.uuid4().hex)  # noqa: PTH100
        with Path(own.folder, EPOCH_FILE).open("a+b", buffering=0) as file:
            if not _locked(file.fileno(), wait):
                raise RunMismatchError(
                    f"{own.folder}: a worker of an earlier job is in the middle of a write and does not end it; end that process "
                    "(it has an open handle on the file .epoch), or give another output"
                )
            # In place: whoever waits for the lock holds this very file.
            file.truncate(0)
            file.write(own.epoch.encode())
            sync(file.name)
        return own

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Write inside the block; a job that begins meanwhile waits for its end.

        Raises:
            FencedError: The job is over: another one has begun to write here.
            ObjectStoreError: The object store cannot be reached.
        """
        found = place(self.folder)
        if isinstance(found, ObjectPath):
            self._require_own(found)
            yield
            self._require_own(found)
            return
        try:
            handle = os.open(Path(self.folder, EPOCH_FILE), os.O_RDONLY)
        except FileNotFoundError as error:
            raise _refusal(self.folder) from error
        try:
            if fcntl is not None:
                fcntl.flock(handle, fcntl.LOCK_SH)
            if os.read(handle, _LONGEST) != self.epoch.encode():
                raise _refusal(self.folder)
            yield
        finally:
            os.close(handle)

    def _require_own(self, folder: ObjectPath) -> None:
        record, _ = read_lease(folder)
        if record is None or record.free or record.epoch != self.epoch:
            raise _refusal(self.folder)


def _refusal(folder: str) -> FencedError:
    return FencedError(f"{folder}: another job has begun to write here; nothing of this one is written any more")


def _locked(handle: int, wait: float) -> bool:
    """Take the lock alone; whether it could be had."""
    if fcntl is None:
        return True
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        else:
            return True
