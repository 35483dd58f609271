"""An archive of up to a million micrographs and a hundred million shards, planned and scheduled without files or a model.

    python -m benchmarks simulate --micrographs 1000 10000 --shards 100

The survey and the schedule are those of a run (`microseg_ray.runs.drive`), with an executor whose workers say at once that a task
is done: what is left is what the driver itself takes. Each row is a process of its own. The second table counts what one
micrograph asks of a file system: every opening, renaming, listing and removing in the process of a run with `workers: 0`.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import Table, peak_mib, resident_mib, run_part
from benchmarks.material import make_checkpoint, segment_archive, write_micrograph

if TYPE_CHECKING:
    from collections.abc import Iterator

    from microseg_ray.runs.drive import Pending
    from microseg_ray.runs.store.shard_set import ShardSet
    from microseg_ray.runs.tasks import Outcome

SHARD = 2048
WRITES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.listdir", "os.scandir")


@dataclass
class Simulated:
    """An executor whose workers find each micrograph well and each task done.

    Attributes:
        found: What preparing finds, the same for each, as a worker sends it.
        kinds: Tasks by kind.
    """

    found: bytes
    kinds: Counter[str] = field(default_factory=Counter)

    def run(self, pending: Pending) -> Iterator[Outcome]:
        """Yield outcomes in the order of the tasks."""
        from microseg_ray.runs.tasks import BeginTask, Outcome, Pieces, PrepareTask

        while pending:
            task = pending.popleft()
            self.kinds[type(task).__name__] += 1
            match task:
                case PrepareTask():
                    yield Outcome(task, ok=True, prepared=pickle.loads(self.found))
                case BeginTask():
                    side = task.view.shape[0] // SHARD
                    yield Outcome(task, ok=True, pieces=Pieces(_levels(side), 2))
                case _:
                    yield Outcome(task, ok=True)

    def close(self) -> None:
        """Nothing is open."""


def _levels(side: int) -> tuple[ShardSet, ...]:
    """The shards of a pyramid of a mask of so many shards along a side."""
    from microseg_ray.runs.store.shard_set import ShardSet

    found = []
    while side > 1:
        side = -(-side // 2)
        found.append(ShardSet((side, side)))
    return tuple(found)


def one(micrographs: int, shards: int, folder: Path) -> dict[str, float]:
    """Survey and schedule an archive of so many micrographs with so many shards each."""
    from microseg_ray.runs import drive
    from microseg_ray.runs.folder import Run
    from microseg_ray.runs.identity import RunIdentity
    from microseg_ray.runs.store.shard_set import ShardSet
    from microseg_ray.runs.tasks import Calibration, Prepared
    from microseg_ray.sources import View

    side = round(shards**0.5)
    if side * side != shards:
        raise SystemExit(f"--shards {shards}: give a square number")
    view = View((side * SHARD, side * SHARD))
    calibration = Calibration((0.5, 0.5), "file", (0.5, 0.5))
    executor = Simulated(
        pickle.dumps(Prepared(view, (0.0, 255.0), calibration, ShardSet((side, side)), finished=False, decoded_bytes=0))
    )
    run = Run.at(str(folder / "run"), RunIdentity("simulated", {}))
    before, began = resident_mib(), time.process_time()
    inputs = [drive.Input(f"{number // 1000:04d}/{number:07d}.tif", f"/a/{number // 1000:04d}/{number:07d}.tif")
              for number in range(micrographs)]  # fmt: skip
    listed = time.process_time() - began
    began = time.process_time()
    ledger, progress = drive.survey(run, inputs, _Config(), lambda: executor, lambda _: None, dry=True)  # type: ignore[arg-type]
    surveyed, after_survey = time.process_time() - began, peak_mib()
    began = time.process_time()
    drive.work(run, ledger, progress, lambda: executor, lambda _: None)
    worked = time.process_time() - began
    done = {"PrepareTask": micrographs, "ShardTask": micrographs * shards, "FinishTask": micrographs}
    if (
        {kind: executor.kinds[kind] for kind in done} != done
        or progress.finished != micrographs
        or progress.shards_done != micrographs * shards
    ):
        raise SystemExit(f"the schedule is not complete: {executor.kinds}, {progress}")
    return {
        "listed": listed,
        "surveyed": surveyed,
        "worked": worked,
        "before": before,
        "after_survey": after_survey,
        "peak": peak_mib(),
    }


class _Config:
    """No mask is there, so that a survey asks nothing of the configuration."""


def requests(shards: int, folder: Path, checkpoint: Path) -> Counter[str]:
    """What a file system is asked for in a run of one micrograph of so many shards of 128 px along a side of a square."""
    archive = folder / f"archive{shards}"
    archive.mkdir()
    write_micrograph(archive / "a.tif", 128 * shards, 128 * shards)
    seen: Counter[str] = Counter()
    # An audit hook cannot be taken away, so that this is a process of its own.
    sys.addaudithook(lambda event, given: _count(seen, event, given, folder))
    options = ["--shard", "128", "--workers", "0", "--runtime", "torch", "--path", "tiles", "--source.info_bar", "none"]
    segment_archive(str(archive), str(checkpoint), str(folder / f"run{shards}"), options)
    return seen


def _count(seen: Counter[str], event: str, given: tuple[Any, ...], folder: Path) -> None:
    if (event != "open" and event not in WRITES) or not given or not str(given[0]).startswith(str(folder)):
        return
    if event == "open":
        mode, flags = given[1], given[2]
        written = any(letter in str(mode or "") for letter in "wax+") or bool(isinstance(flags, int) and flags & 3)
        seen["write" if written else "read"] += 1
    else:
        seen[event.removeprefix("os.")] += 1


def run(arguments: list[str]) -> list[Table]:
    """Both tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks simulate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--micrographs", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--shards", type=int, nargs="+", default=[1, 100], help="of each micrograph, square numbers")
    chosen = parser.parse_args(arguments)
    command = " ".join(["python -m benchmarks simulate", *arguments])
    columns = ("micrographs", "shards", "survey, CPU s", "a micrograph, us", "schedule, CPU s", "a shard, us",
               "before, MiB", "after the survey", "peak", "a micrograph, kB")  # fmt: skip
    table = Table("simulation", command, columns)
    for shards in chosen.shards:
        for micrographs in chosen.micrographs:
            found = json.loads(run_part("benchmarks.simulate", ["--one", str(micrographs), str(shards)]))
            each, grown = 1e6 / micrographs, found["peak"] - found["before"]
            table.rows.append(
                (
                    f"{micrographs:,}",
                    f"{micrographs * shards:,}",
                    f"{found['surveyed']:.1f}",
                    f"{found['surveyed'] * each:.1f}",
                    f"{found['worked']:.1f}",
                    f"{found['worked'] * each / shards:.2f}",
                    f"{found['before']:.0f}",
                    f"{found['after_survey']:.0f}",
                    f"{found['peak']:.0f}",
                    f"{1024 * grown / micrographs:.2f}",
                )
            )
            print(table.rows[-1], file=sys.stderr, flush=True)
    return [table, _request_table(command)]


def _request_table(command: str) -> Table:
    """What each shard more costs: the difference of two runs."""
    few, many = (Counter(json.loads(run_part("benchmarks.simulate", ["--requests", str(side)]))) for side in (4, 8))
    table = Table("simulation", command, ("request", "4 x 4 shards", "8 x 8 shards", "each shard more"))
    for kind in sorted(few | many):
        table.rows.append((kind, str(few[kind]), str(many[kind]), f"{(many[kind] - few[kind]) / 48:.2f}"))
    return table


def main() -> None:
    """The part of a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", type=int, nargs=2)
    parser.add_argument("--requests", type=int)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        if chosen.one:
            print(json.dumps(one(*chosen.one, folder)))
            return
        checkpoint = make_checkpoint(folder / "model", "unet", {"width": 2, "depth": 1}, ("matrix", "pore"))
        print(json.dumps(requests(chosen.requests, folder, checkpoint)))


if __name__ == "__main__":
    main()
