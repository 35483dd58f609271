"""Where a worker's time goes: CPU seconds of `segment` at its defaults by step, in one process, after a warm-up.

Each step is charged with its own time only, but for the seam audit, which is charged with all that it calls.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Table
from benchmarks.material import make_checkpoint, write_micrograph

if TYPE_CHECKING:
    from collections.abc import Callable

WHOLE = "seam audit"


class Clock:
    """CPU seconds by step of this thread's process, each step without the steps inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._steps: list[str] = ["the rest"]
        self._since = time.process_time()

    def charge(self) -> None:
        now = time.process_time()
        self.seconds[self._steps[-1]] = self.seconds.get(self._steps[-1], 0.0) + now - self._since
        self._since = now

    def wrap(self, owner: Any, name: str, step: str) -> None:
        """Charge a function to a step."""
        genuine: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(genuine)
        def timed(*given: Any, **named: Any) -> Any:
            self.charge()
            self._steps.append(WHOLE if WHOLE in self._steps else step)
            try:
                return genuine(*given, **named)
            finally:
                self.charge()
                self._steps.pop()

        setattr(owner, name, timed)


def run(arguments: list[str]) -> list[Table]:
    """The table of `python -m benchmarks steps`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks steps", description=__doc__)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--count", type=int, default=1, help="micrographs, of equal pixels")
    parser.add_argument("--model", default="resunet")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="of segment, last")
    chosen = parser.parse_args(arguments)
    from microseg_ray.cli import main
    from microseg_ray.models import largest, probing
    from microseg_ray.models.runtimes import eager, vino
    from microseg_ray.runs import streaming, worker
    from microseg_ray.runs.store.masks import MaskStore

    clock = Clock()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = str(make_checkpoint(folder / "checkpoint", chosen.model))

        def job(side: int, count: int = 1) -> None:
            archive = folder / f"archive{side}"
            archive.mkdir()
            first = write_micrograph(archive / "000.tif", side, side)
            for number in range(1, count):
                (archive / f"{number:03d}.tif").hardlink_to(first)
            given = ["--archive", str(archive), "--checkpoint", checkpoint, "--output", str(folder / f"run{side}")]
            if main(["segment", *given, "--workers", "0", "--threads", "1", *chosen.options]):
                raise SystemExit("segment failed")

        job(96)
        for owner, function, step in (
            (vino.Graph, "__call__", "network"),
            (eager._Eager, "__call__", "network"),  # noqa: SLF001 - of the same project
            (vino.OpenVinoRuntime, "convert", "converting and compiling"),
            (vino.OpenVinoRuntime, "compile", "converting and compiling"),
            (vino.OpenVinoRuntime, "resized", "converting and compiling"),
            (worker.ArchiveWorker, "_read", "reading"),
            (worker.ArchiveWorker, "_prepare", "preparing the micrograph"),
            (worker, "audit_seams", WHOLE),
            (streaming.Streamer, "audit", WHOLE),
            (MaskStore, "commit", "writing shards"),
            (MaskStore, "finish", "pyramid and metadata"),
            (probing, "check_pixels", "checking pixels"),
            (largest, "largest", "classes"),
        ):
            clock.wrap(owner, function, step)
        clock.seconds.clear()
        clock.charge()
        clock.seconds.clear()
        job(chosen.side, chosen.count)
        clock.charge()
    total, pixels = sum(clock.seconds.values()), chosen.count * chosen.side**2
    command = " ".join(["python -m benchmarks steps", *arguments])
    table = Table("steps", command, ("step", "CPU s", "share", "ms per MPix"))
    for step, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1]):
        table.rows.append((step, f"{seconds:.2f}", f"{seconds / total:.3f}", f"{1e9 * seconds / pixels:.1f}"))
        table.figures[step] = round(seconds / total, 4)
    table.notes.append(
        f"{chosen.count} of {chosen.side} x {chosen.side} px, `{chosen.model}`, {total:.1f} CPU s in all, one thread."
    )
    return [table]
