"""Where a worker's time goes: CPU seconds of `segment` at its defaults by step, in one process, after a warm-up.

Each step is charged with its own time only, but for the seam audit, which is charged with all that it calls. Memory that a graph
computes in is asked for at its first call, in page faults, so that first calls are a step of their own.
"""

from __future__ import annotations

import argparse
import functools
import resource
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Table
from benchmarks.material import CLASS_NAMES, make_checkpoint, write_micrograph

if TYPE_CHECKING:
    from collections.abc import Callable

WHOLE = "seam audit"


class Clock:
    """What this process used by step, each step without the steps inside it.

    Attributes:
        used: User seconds, system seconds and page faults, by step.
    """

    def __init__(self) -> None:
        self.used: dict[str, list[float]] = {}
        self._steps: list[str] = ["everything else"]
        self._since = _used()

    def charge(self) -> None:
        now = _used()
        found = self.used.setdefault(self._steps[-1], [0.0] * len(now))
        self.used[self._steps[-1]] = [old + b - a for old, a, b in zip(found, self._since, now, strict=True)]
        self._since = now

    def clear(self) -> None:
        self.charge()
        self.used.clear()

    def wrap(self, owner: Any, name: str, step: str | Callable[..., str]) -> None:
        """Charge a function to a step, or to the one that its arguments decide."""
        genuine: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(genuine)
        def timed(*given: Any, **named: Any) -> Any:
            self.charge()
            own = step if isinstance(step, str) else step(*given)
            self._steps.append(WHOLE if WHOLE in self._steps else own)
            try:
                return genuine(*given, **named)
            finally:
                self.charge()
                self._steps.pop()

        setattr(owner, name, timed)


def _used() -> tuple[float, float, float]:
    found = resource.getrusage(resource.RUSAGE_SELF)
    return found.ru_utime, found.ru_stime, found.ru_minflt


class _Calls:
    """The step of a graph's call: classes from logits, the first call of a network, or another."""

    def __init__(self) -> None:
        self._called: dict[int, Any] = {}

    def __call__(self, graph: Any, *inputs: Any) -> str:
        if inputs[0].ndim == 4 and inputs[0].shape[1] == len(CLASS_NAMES):
            return "classes"
        known = id(graph) in self._called
        # Held, so that no other graph gets its number.
        self._called[id(graph)] = graph
        return "network" if known else "network, first call of a graph"


def run(arguments: list[str]) -> list[Table]:
    """The table of `python -m benchmarks steps`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks steps", description=__doc__)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--count", type=int, default=1, help="micrographs, of equal pixels")
    parser.add_argument("--model", default="resunet")
    parser.add_argument("--options", nargs=argparse.REMAINDER, default=[], help="of segment, last")
    chosen = parser.parse_args(arguments)
    from microseg_ray import settings
    from microseg_ray.cli import main
    from microseg_ray.models import largest, predictor, probing
    from microseg_ray.models.runtimes import eager, vino
    from microseg_ray.models.strips import kept
    from microseg_ray.runs import finisher, streaming, worker
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
            (vino.Graph, "__call__", _Calls()),
            (eager._Eager, "__call__", "network"),  # noqa: SLF001 - of the same project
            (vino.OpenVinoRuntime, "convert", "converting and compiling"),
            (vino.OpenVinoRuntime, "compile", "converting and compiling"),
            (vino.OpenVinoRuntime, "resized", "converting and compiling"),
            (predictor, "load_predictor", "loading the model"),
            (settings, "load_settings", "settings"),
            (kept.KeptRows, "place", "kept rows"),
            (kept.KeptRows, "add", "kept rows"),
            (worker.ArchiveWorker, "_read", "reading"),
            (worker.ArchiveWorker, "_prepare", "preparing the micrograph"),
            (finisher, "audit_seams", WHOLE),
            (finisher, "audit_seam", WHOLE),
            (streaming.Streamer, "audit", WHOLE),
            (MaskStore, "commit", "writing shards"),
            (MaskStore, "finish", "pyramid and metadata"),
            (probing, "check_pixels", "checking pixels"),
            (largest, "largest", "classes"),
        ):
            clock.wrap(owner, function, step)
        clock.clear()
        job(chosen.side, chosen.count)
        clock.charge()
    total, pixels = sum(user + system for user, system, _ in clock.used.values()), chosen.count * chosen.side**2
    command = " ".join(["python -m benchmarks steps", *arguments])
    columns = ("step", "CPU s", "share", "ms per MPix", "of it system s", "page faults")
    table = Table("steps", command, columns)
    for step, (user, system, faults) in sorted(clock.used.items(), key=lambda item: -sum(item[1][:2])):
        seconds = user + system
        shown = (f"{seconds:.2f}", f"{seconds / total:.3f}", f"{1e9 * seconds / pixels:.1f}")
        table.rows.append((step, *shown, f"{system:.2f}", f"{faults:.0f}"))
        table.figures[step] = round(seconds / total, 4)
    table.notes.append(
        f"{chosen.count} of {chosen.side} x {chosen.side} px, `{chosen.model}`, {total:.1f} CPU s in all, one thread."
    )
    return [table]
