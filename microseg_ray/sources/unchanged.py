"""Whether inputs are still the files that a job began with: a file that is rewritten meanwhile gives pixels of two images."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from microseg_ray.errors import ChangedInputError
from microseg_ray.sources.listing import fingerprint

if TYPE_CHECKING:
    from microseg_ray.files import Where

__all__ = ["Unchanged", "require_unchanged"]

ADVICE = "nothing may write to it meanwhile; run the same command again"
_LEAST_BETWEEN = 20.0
"""Seconds between two checks of a file, in units of what one takes: checks of a zarr folder of many files stay rare."""
_REMEMBERED = 64


def require_unchanged(path: Where, mark: str) -> None:
    """Refuse a file whose fingerprint is another one now.

    Args:
        path: As in `fingerprint`.
        mark: What `fingerprint` gave before; its kind is taken from it.

    Raises:
        ChangedInputError: It is another file now.
        InputError: It is missing or may not be read.

    Example:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "a.bin"
        ...     _ = path.write_bytes(b"abc")
        ...     mark = fingerprint(path, "stat")
        ...     require_unchanged(path, mark)
        ...     _ = path.write_bytes(b"abcd")
        ...     require_unchanged(path, mark)
        Traceback (most recent call last):
            ...
        microseg_ray.errors.ChangedInputError: ...: has changed while it was read; nothing may write to it meanwhile; ...
    """
    if fingerprint(path, _kind(mark)) != mark:
        raise ChangedInputError(path, "has changed while it was read", ADVICE)


@dataclass
class _Seen:
    """The last check of a file: what a look at size and time gave, when it ended, and how long it took."""

    stat: str
    at: float
    seconds: float


class Unchanged:
    """Checks the inputs of a worker again and again, at a bounded cost.

    Size and time are looked at. A fingerprint of the content is compared where these have changed, and where `final` asks for
    it, because reading every byte for each region would take longer than the work. Thread-safe.
    """

    def __init__(self) -> None:
        self._seen: OrderedDict[str, _Seen] = OrderedDict()
        self._lock = threading.Lock()

    def require(self, path: str, mark: str, *, final: bool = False) -> None:
        """Refuse a file that is not the one of the fingerprint any more.

        Args:
            path: The file.
            mark: Its fingerprint when the job began.
            final: Compare now and in full, and forget the file.

        Raises:
            ChangedInputError: It is another file now.
            InputError: It is missing or may not be read.
        """
        with self._lock:
            seen = self._seen.pop(path, None) if final else self._seen.get(path)
        begun = time.monotonic()
        if not final and seen is not None and begun - seen.at < _LEAST_BETWEEN * seen.seconds:
            return
        if _kind(mark) == "stat" or final:
            require_unchanged(path, mark)
        stat = mark if _kind(mark) == "stat" else fingerprint(path, "stat")
        if _kind(mark) == "content" and seen is not None and seen.stat != stat:
            require_unchanged(path, mark)
        if not final:
            ended = time.monotonic()
            with self._lock:
                self._seen[path] = _Seen(stat, ended, ended - begun)
                while len(self._seen) > _REMEMBERED:
                    self._seen.popitem(last=False)


def _kind(mark: str) -> Literal["stat", "content"]:
    return "content" if mark.startswith("sha256:") else "stat"
