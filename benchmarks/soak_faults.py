"""What the soak does to jobs: signals to processes, damage to files, and what is left in the end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import time
from typing import TYPE_CHECKING, Any

import psutil

from benchmarks.soak_jobs import LONGEST, POLL
from microseg_ray.files import BOOKS

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.soak_jobs import Running


def signal_driver(running: Running, fault: str) -> None:
    """Send the driver the signal that the fault names."""
    name = fault.split(": ")[1]
    running.process.send_signal(getattr(signal, name.split()[0]))
    if name.endswith("twice"):
        time.sleep(0.3)
        with contextlib.suppress(ProcessLookupError):
            running.process.send_signal(signal.SIGINT)


def kill_worker(running: Running, chance: random.Random) -> bool:
    """Kill one worker at random, as soon as there is one; whether there was one."""
    began = time.monotonic()
    while running.process.poll() is None and time.monotonic() - began < LONGEST:
        workers = running.workers()
        if workers:
            with contextlib.suppress(psutil.NoSuchProcess):
                chance.choice(workers).kill()
                return True
        time.sleep(POLL)
    return False


def rewrite(path: Path, chance: random.Random) -> Callable[[], None]:
    """Change the pixels of a micrograph in place; returns what puts the old file back, its times included."""
    content, times = path.read_bytes(), path.stat()
    changed = bytearray(content)
    for _ in range(200):
        changed[chance.randrange(len(changed) // 2, len(changed))] ^= 1 << chance.randrange(8)
    path.write_bytes(changed)

    def put_back() -> None:
        path.write_bytes(content)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    return put_back


def remove(path: Path) -> Callable[[], None]:
    """Take a micrograph away; returns what puts it back."""
    aside = path.parent.parent / f"aside-{path.name}"
    path.rename(aside)
    return lambda: aside.replace(path)


def damageable(output: Path, part: str) -> list[Path]:
    """The files of a kind that an output has, in one order."""
    match part:
        case "shard":
            found = [path for path in output.glob("masks/*.zarr/[0-9]/c/**/*") if path.is_file()]
        case "counts":
            found = [path for path in output.glob("masks/*.zarr/counts/c/**/*") if path.is_file()]
        case "metadata":
            found = list(output.glob("masks/*.zarr/**/zarr.json"))
        case _:
            found = [path for kind in ("csv", "parquet", "xlsx", "md", "tex") for path in output.glob(f"*.{kind}")]
    return sorted(found)


def damage(path: Path, harm: str, chance: random.Random) -> None:
    """Harm one file in the way named."""
    content = path.read_bytes()
    match harm:
        case "cut short":
            content = content[: chance.randrange(len(content))]
        case "emptied":
            content = b""
        case "overwritten":
            content = chance.randbytes(200)
        case _:
            flipped = bytearray(content)
            for _ in range(8):
                flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
            content = bytes(flipped)
    path.write_bytes(content)


def tree(output: Path) -> dict[str, str]:
    """Digest of each file of an output that is a result; of run.json without what names the output."""
    found = {}
    for path in sorted(output.rglob("*")):
        name = path.relative_to(output).as_posix()
        if not path.is_file() or name in BOOKS or name.startswith("logs/"):
            continue
        content = path.read_bytes()
        if name == "run.json":
            content = json.dumps(_without_place(json.loads(content))).encode()
        found[name] = hashlib.sha256(content).hexdigest()
    return found


def _without_place(record: dict[str, Any]) -> dict[str, Any]:
    """What run.json says, without where and on how many workers the job was done."""
    own = {"output", "workers", "ray"}
    return {
        key: {name: each for name, each in value.items() if name not in own} if isinstance(value, dict) else value
        for key, value in record.items()
    }
