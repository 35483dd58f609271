"""Jobs under random faults, over and over: in the end the bytes of an undisturbed job, or the soak says what was lost.

    python -m benchmarks soak --minutes 10 --seed 1 --log soak.jsonl

Each episode begins with an empty output. One to three faults are injected one after another, each into a process of the job or
between two of them; then the job is run undisturbed, and its output is compared with that of a job that nothing was done to.
The faults of a job are dealt from a shuffled pack, so that each comes as often as any other. The seed decides jobs, faults,
moments and what is damaged; when a process of a job gets to run is the machine's.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from benchmarks.harness import Table, cpu_seconds, run_part
from benchmarks.soak_faults import damage, damageable, kill_worker, remove, rewrite, signal_driver, tree
from benchmarks.soak_jobs import (
    DAMAGED,
    DRIVER,
    JOBS,
    MICROGRAPHS,
    WORKER,
    Ended,
    Moment,
    Place,
    Running,
    count,
    end_processes,
    preload,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.soak_jobs import Job

MOST_FAULTS = 3
PLAIN = 3
"""Episodes of each job in one process for one of each job on Ray, whose start takes long."""
FRESH = 0.25
"""Share of the disturbed jobs that are a fresh interpreter; the others are copies of this process."""
PROMISED = {
    **dict.fromkeys(DRIVER, "ends, no process left after 30 s; the same command goes on: the same bytes"),
    WORKER: "exit code 0, the same bytes",
    **dict.fromkeys(DAMAGED, "found by `verify --repair` or the job, made anew: the same bytes"),
    **dict.fromkeys(
        MICROGRAPHS, "set aside, exit code 3; with the old file back (tile: and `overwrite`) the same bytes"
    ),
}
OF_TABLES = "written anew: the same bytes"
CODES = {
    "driver: SIGKILL": {-9},
    "driver: SIGTERM": {130, -15},
    "driver: SIGINT": {130, -2},
    "driver: SIGINT twice": {130, -2, 1},
    WORKER: {0},
    **{fault: {0, 3} for fault in MICROGRAPHS},
}
"""Exit codes that are promised of a disturbed job; 0 for a micrograph: no shard of it was left to compute."""


@dataclass
class Undisturbed:
    """What a job makes when nothing is done to it.

    Attributes:
        tree: Digest by file.
        seconds: How long it takes, from the start of its process.
        files: In its output, those that are no result included.
    """

    tree: dict[str, str]
    seconds: float
    files: int


@dataclass
class Soak:
    """A soak that runs: where, with what chance, and what it has seen.

    Attributes:
        place: Where everything lies.
        chance: What decides everything.
        log: Where each event is written, a line of JSON each.
        undisturbed: By job.
        decks: Faults that are still to come, by job.
        injected: How often, by fault and job.
        late: Faults whose job was over first, by fault and job.
        wrong: What was not as promised.
        lost: Files that were missing or different in the end, by fault and job.
        episodes: How many, by job.
    """

    place: Place
    chance: random.Random
    log: IO[str]
    undisturbed: dict[str, Undisturbed] = field(default_factory=dict)
    decks: dict[str, list[str]] = field(default_factory=dict)
    injected: Counter[tuple[str, str]] = field(default_factory=Counter)
    late: Counter[tuple[str, str]] = field(default_factory=Counter)
    wrong: Counter[tuple[str, str]] = field(default_factory=Counter)
    lost: Counter[tuple[str, str]] = field(default_factory=Counter)
    episodes: Counter[str] = field(default_factory=Counter)
    began: float = field(default_factory=time.monotonic)

    def write(self, **event: Any) -> None:
        """A line of the log."""
        self.log.write(json.dumps({"t": round(time.monotonic() - self.began, 1), **event}) + "\n")
        self.log.flush()

    def prepare(self, jobs: Sequence[Job]) -> None:
        """Make the archive, the model and the undisturbed outputs."""
        (self.place.folder / "r").mkdir()
        run_part("benchmarks.soak_material", [str(self.place.folder)])
        preload()
        for job in jobs:
            output = self._fresh(job, self.place.folder / "undisturbed" / job.reference)
            ended = Running(self.place, job.words(self.place, output)).end()
            if ended.code:
                raise SystemExit(f"{job.name}: undisturbed, it ended with {ended.code}:\n{ended.said}")
            found = Undisturbed(tree(output), ended.seconds, count(output))
            self.write(job=job.name, undisturbed=round(ended.seconds, 1), files=len(found.tree))
            first = next((seen for name, seen in self.undisturbed.items() if _reference(name) == job.reference), found)
            if first.tree != found.tree:
                raise SystemExit(f"{job.name}: undisturbed, it differs: {_differences(first.tree, output)}")
            self.undisturbed[job.name] = found

    def _fresh(self, job: Job, folder: Path) -> Path:
        """An output to begin with; all have the same name, which statistics.xlsx holds."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        if job.begins_with_parent:
            shutil.copytree(self.place.parent, folder / "run")
        return folder / "run"

    def _dealt(self, job: Job) -> str:
        deck = self.decks.setdefault(job.name, [])
        if not deck:
            deck.extend(job.faults)
            self.chance.shuffle(deck)
        return deck.pop()

    def episode(self, job: Job) -> None:
        """Faults into one output, then the comparison."""
        self.episodes[job.name] += 1
        number = sum(self.episodes.values())
        output = self._fresh(job, self.place.folder / "episode")
        faults = [self._dealt(job) for _ in range(self.chance.randint(1, MOST_FAULTS))]
        for fault in faults:
            self._inject(number, job, fault, output)
        anew = job.anew if set(faults) & set(MICROGRAPHS) else ()
        ended = Running(self.place, [*job.words(self.place, output), *anew]).end()
        differences = _differences(self.undisturbed[job.name].tree, output)
        good = ended.code == 0 and not differences
        self.write(episode=number, job=job.name, end=ended.code, equal=not differences, differences=differences[:20])
        if not good:
            self.write(episode=number, job=job.name, said=ended.said[-2000:])
            for fault in set(faults):
                self.lost[fault, job.name] += max(1, len(differences))
        print(f"{number} {job.name}: {', '.join(faults)}: {'equal' if good else 'NOT EQUAL'}", flush=True)

    def _inject(self, number: int, job: Job, fault: str, output: Path) -> None:
        damaging = fault not in {*DRIVER, WORKER, *MICROGRAPHS}
        ended = self._damage(job, fault, output) if damaging else self._disturb(job, fault, output)
        key = fault, job.name
        (self.injected if ended.injected else self.late)[key] += 1
        complaint = _complaint(fault, ended) if ended.injected else ""
        self.wrong[key] += bool(complaint)
        event = {"injected": ended.injected, "at": ended.moment, "code": ended.code, "seconds": round(ended.seconds, 1)}
        self.write(episode=number, job=job.name, fault=fault, **event, outlived=ended.outlived, wrong=complaint)
        if complaint:
            self.write(episode=number, job=job.name, said=ended.said[-2000:])
            print(f"  {job.name}: {fault}: {complaint}", flush=True)

    def _disturb(self, job: Job, fault: str, output: Path) -> Ended:
        """Run the job, and do something to it at a random moment."""
        usual = self.undisturbed[job.name]
        already = count(output) if output.is_dir() else 0
        moment = Moment.drawn(self.chance, usual.seconds, usual.files)
        running = Running(self.place, job.words(self.place, output), fresh=self.chance.random() < FRESH)
        injected = moment.waited(running.process, output, already)
        put_back = None
        if injected and fault in DRIVER:
            family = running.family()
            signal_driver(running, fault)
            ended = running.end(str(moment))
            ended.outlived += end_processes(set(family))
            return ended
        if injected and fault == WORKER:
            injected = kill_worker(running, self.chance)
        elif injected:
            chosen = self.chance.choice(sorted(self.place.images.iterdir()))
            put_back = remove(chosen) if fault.endswith("removed") else rewrite(chosen, self.chance)
        try:
            return running.end(str(moment), injected=injected)
        finally:
            if put_back is not None:
                put_back()

    def _damage(self, job: Job, fault: str, output: Path) -> Ended:
        """Harm one file of an output that is complete, and let `verify --repair` look where there are masks to look at."""
        ended = Running(self.place, job.words(self.place, output)).end()
        part, harm = fault.split(" ", 1)
        files = damageable(output, part)
        if ended.code or not files:
            ended.injected = False
            return ended
        chosen = self.chance.choice(files)
        damage(chosen, harm, self.chance)
        ended.moment = chosen.relative_to(output).as_posix()
        if part == "table":
            return ended
        words = ["verify", "--run", str(output), "--shards", "10000", "--repair", "true"]
        found = Running(self.place, words).end(ended.moment)
        found.seconds += ended.seconds
        return found

    def table(self, command: str) -> Table:
        """What was injected and seen."""
        columns = ("fault", "job", "times", "too late", "promised", "not as promised", "lost")
        table = Table("soak", command, columns)
        for job in (job for job in JOBS if self.episodes[job.name]):
            for fault in dict.fromkeys(job.faults):
                key = fault, job.name
                if not self.injected[key] and not self.late[key]:
                    continue
                figures = (self.injected[key], self.late[key], self.wrong[key], self.lost[key])
                times, late, wrong, lost = (str(value) for value in figures)
                table.rows.append((fault, job.name, times, late, PROMISED.get(fault, OF_TABLES), wrong, lost))
        total = sum(self.injected.values())
        table.rows.append(
            ("all", "", str(total), str(self.late.total()), "", str(self.wrong.total()), str(self.lost.total()))
        )
        table.notes.append(
            f"{self.episodes.total()} episodes in {(time.monotonic() - self.began) / 60:.1f} min, {cpu_seconds():.0f} CPU s "
            "without Ray's own processes; each ended with a comparison of all files"
        )
        kinds = sum(len(set(job.faults)) for job in JOBS)
        table.notes.append(
            f"{kinds - len(table.rows) + 1} of {kinds} pairs of fault and job did not come up in this time"
        )
        table.notes.append(
            "`too late`: the job was over, or had nothing to damage, before the moment came; it counts as no injection"
        )
        return table


def _needed(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, and the one that makes the parent of the others."""
    return [job for job in JOBS if job in jobs or job is JOBS[0]]


def _reference(name: str) -> str:
    return next(job.reference for job in JOBS if job.name == name)


def _differences(wanted: dict[str, str], output: Path) -> list[str]:
    found = tree(output) if output.is_dir() else {}
    return [
        f"{'missing' if name not in found else 'left over' if name not in wanted else 'different'}: {name}"
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name)
    ]


def _complaint(fault: str, ended: Ended) -> str:
    """What was not as promised; "" where all was."""
    if "Traceback" in ended.said:
        return "a traceback"
    if ended.outlived:
        return f"processes outlived the job: {', '.join(ended.outlived)}"
    codes = CODES.get(fault, {0, 1})
    # A driver that was at its end when the signal came ends as usual.
    if ended.code not in codes and not (fault in DRIVER and ended.code == 0):
        return f"exit code {ended.code}"
    return ""


def run(arguments: list[str]) -> list[Table]:
    """The soak for so many minutes."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="after the undisturbed jobs; no episode begins after them"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=Path("soak.jsonl"), help="a line of JSON for each event")
    parser.add_argument("--only", nargs="+", help="jobs whose name contains one of these words")
    chosen = parser.parse_args(arguments)
    # A shell may have set it to be ignored, which jobs would inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    jobs = [job for job in JOBS if not chosen.only or any(word in job.name for word in chosen.only)]
    # A short name: the path of a socket of Ray has at most 107 bytes.
    folder = Path(tempfile.mkdtemp(prefix="soak", dir="/tmp"))
    try:
        with chosen.log.open("w", encoding="utf-8") as log:
            soak = Soak(Place(folder), random.Random(chosen.seed), log)
            soak.prepare(_needed(jobs))
            soak.began = time.monotonic()
            deck: list[Job] = []
            while time.monotonic() - soak.began < 60 * chosen.minutes:
                if not deck:
                    deck = [job for job in jobs for _ in range(1 if "Ray" in job.name else PLAIN)]
                    soak.chance.shuffle(deck)
                soak.episode(deck.pop())
            table = soak.table(" ".join(["python -m benchmarks soak", *arguments]))
            soak.write(end=True, injected=soak.injected.total(), lost=soak.lost.total(), wrong=soak.wrong.total())
    finally:
        # No `TemporaryDirectory`: copies of this process would delete it at their end.
        shutil.rmtree(folder, ignore_errors=True)
    return [table]
