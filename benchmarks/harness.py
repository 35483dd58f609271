"""What all benchmarks of `python -m benchmarks` share: the machine, ways measured in turns, tables as Markdown and JSON.

A *way* is one method of doing the same work. Each repetition of a way is a process of its own, which warms up, then does
the work once and prints what it used. Ways take turns (A B A B), because a shared machine changes from one minute to the
next, and ratios are taken within a round. CPU seconds are the steadier figure; wall seconds stand beside them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microseg_ray.versions import versions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    "openvino",
    "zarr",
    "zarrs",
    "ray",
    "monai",
    "tiler",
    "pytorch-toolbelt",
    "onnxruntime",
    "dask",
)


@dataclass
class Table:
    """One table of a benchmark.

    Attributes:
        name: Of the benchmark.
        command: Which gives this table.
        columns: Headings.
        rows: Cells as text.
        notes: What a reader has to know.
        figures: The same numbers by name, for programs.
    """

    name: str
    command: str
    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)

    def markdown(self) -> str:
        lines = [f"`{self.command}`", "", f"| {' | '.join(self.columns)} |", f"|{'---|' * len(self.columns)}"]
        lines += [f"| {' | '.join(row)} |" for row in self.rows]
        return "\n".join([*lines, "", *(f"* {note}" for note in self.notes), ""])


@dataclass(frozen=True)
class Used:
    """What one repetition of a way used, after its warm-up.

    Attributes:
        cpu: CPU seconds, of the process and of those it waited for.
        wall: Seconds.
        peak: Largest resident set in MiB, the warm-up included.
        result: Anything else that the way printed.
    """

    cpu: float
    wall: float
    peak: float
    result: dict[str, Any]


LOAD = "load at the start"


def machine() -> dict[str, str]:
    """Processor, memory, load and versions."""
    found = {
        "processor": cpu_name(),
        "cores": str(os.cpu_count()),
        "bf16 units": "yes" if "bf16" in Path("/proc/cpuinfo").read_text(encoding="utf-8") else "no",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB",
        LOAD: f"{os.getloadavg()[0]:.1f}",
    }
    return found | versions(*PACKAGES)


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def measured(work: Callable[[], dict[str, Any] | None]) -> None:
    """For the process of a way: do the work once and print what it used as the last line."""
    before, began = cpu_seconds(), time.perf_counter()
    result = work() or {}
    used = {"cpu": cpu_seconds() - before, "wall": time.perf_counter() - began, "peak": peak_mib(), "result": result}
    print(json.dumps(used), flush=True)


def cpu_seconds() -> float:
    """CPU seconds of this process and of its children that have ended."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def peak_mib() -> float:
    """Largest resident set of this program; getrusage would report its parent's where that was larger."""
    return _status_mib("VmHWM")


def resident_mib() -> float:
    """Resident set of this program now."""
    return _status_mib("VmRSS")


def _status_mib(name: str) -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith(f"{name}:"))) / 1024


def run_part(module: str, arguments: Sequence[str], environment: dict[str, str] | None = None) -> str:
    """The last line that a module prints which is run in a process of its own, as a fresh one has no memory to give back."""
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **(environment or {}), "PYTHONPATH": str(ROOT)},
    )
    return done.stdout.splitlines()[-1]


def run_way(module: str, arguments: dict[str, Any], environment: dict[str, str] | None = None) -> Used | None:
    """One repetition of a way in a process of its own; None, with the reason printed, where it cannot run here."""
    command = [sys.executable, "-m", module, "--way", json.dumps(arguments)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ, **(environment or {}), "PYTHONPATH": str(ROOT)},
    )
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        print(f"  {arguments}: left out: {reason}", file=sys.stderr, flush=True)
        return None
    return Used(**json.loads(done.stdout.splitlines()[-1]))


def run_named(way: Callable[[dict[str, Any]], None]) -> None:
    """The other end of `run_way`: run the way whose arguments the command line of this process has."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--way", required=True)
    way(json.loads(parser.parse_args().way))


def in_turns(
    module: str, ways: dict[str, dict[str, Any]], rounds: int, environment: dict[str, str] | None = None
) -> dict[str, list[Used]]:
    """Each way once a round, in order; a way that cannot run is tried once."""
    found: dict[str, list[Used]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, arguments in ways.items():
            if number and not found[name]:
                continue
            used = run_way(module, arguments, environment)
            if used is not None:
                found[name].append(used)
                print(
                    f"  round {number + 1}: {name}: {used.cpu:.2f} CPU s, {used.wall:.2f} s",
                    file=sys.stderr,
                    flush=True,
                )
    return found


def ratios(found: dict[str, list[Used]], base: str) -> dict[str, float]:
    """CPU seconds of `base` over those of each way, the median over the rounds: above 1 where the way is faster."""
    return {
        name: statistics.median(b.cpu / u.cpu for b, u in zip(found[base], used, strict=False))
        for name, used in found.items()
        if used and found[base]
    }


def write(tables: Sequence[Table], output: Path | None) -> None:
    """Print the tables, and write NAME.md and NAME.json where a folder is given."""
    about = machine()
    text = "\n".join(table.markdown() for table in tables)
    print(text)
    if output is None:
        return
    output.mkdir(parents=True, exist_ok=True)
    head = ", ".join(f"{key} {value}" for key, value in about.items())
    name = tables[0].name
    (output / f"{name}.md").write_text(f"# {name}\n\nMachine: {head}.\n\n{text}", encoding="utf-8")
    document = {"machine": about, "tables": [asdict(table) for table in tables]}
    (output / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
