"""`python -m benchmarks NAME [options]`: one benchmark, its table as Markdown, and with --output NAME.md and NAME.json.

`python -m benchmarks check` runs a short set and compares its ratios with the committed docs/results/benchmarks/check.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import runpy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.harness import LOAD, ROOT, Table, machine, write

if TYPE_CHECKING:
    from collections.abc import Sequence

SUITE = (
    "forward",
    "segment",
    "steps",
    "stitch",
    "archive",
    "strips",
    "tax",
    "objects",
    "roofline",
    "loop",
    "fuzz",
    "soak",
    "simulate",
)
"""Modules with a `run(arguments) -> tables`."""
SCRIPTS = {
    "tile": "tiling",
    "train": "train_throughput",
    "plan": "plan_scale",
    "memory": "memory",
    "exactness": "exactness",
    "pool": "pool",
    "intervals": "intervals",
    "many": "many",
    "view": "view",
    "forest": "forest",
    "pretrained": "pretrained",
}
"""Modules with a `main()` that prints its own tables."""
CHECKED = ROOT / "docs" / "results" / "benchmarks" / "check.json"
SHORT = {
    "forward": ["--models", "resunet", "--rounds", "2", "--megapixels", "2"],
    "segment": ["--side", "2048", "--rounds", "2", "--no-peers"],
    "stitch": [
        "--rounds",
        "2",
        "--only",
        "copy (memcpy)",
        "microseg_ray, stitch() of masks",
        "microseg_ray, crop",
        "MONAI, constant",
    ],
}
TOLERANCE = 0.6
"""A ratio below this share of the committed one is reported: machines differ, a halved speed does not go unseen."""


def main(arguments: Sequence[str]) -> int:
    """Run one benchmark.

    Returns:
        The exit code: 1 where `check` finds a ratio that fell.
    """
    names = [*SUITE, *SCRIPTS, "check"]
    if not arguments or arguments[0] not in names:
        print(f"usage: python -m benchmarks {{{','.join(names)}}} [options]", file=sys.stderr)
        return 2
    name, rest = arguments[0], list(arguments[1:])
    if name in SCRIPTS:
        sys.argv = [SCRIPTS[name], *rest]
        runpy.run_module(f"benchmarks.{SCRIPTS[name]}", run_name="__main__")
        return 0
    output = None
    if "--output" in rest:
        at = rest.index("--output")
        output = Path(rest[at + 1])
        del rest[at : at + 2]
    if name == "check":
        parser = argparse.ArgumentParser(prog="python -m benchmarks check", description=check.__doc__)
        parser.add_argument("--keep", action="store_true", help="write what was measured now into the committed table")
        return check(keep=parser.parse_args(rest).keep)
    write(tables_of(name, rest), output)
    return 0


def tables_of(name: str, arguments: list[str]) -> list[Table]:
    """The tables of one benchmark."""
    tables: list[Table] = importlib.import_module(f"benchmarks.{name}").run(arguments)
    return tables


def check(*, keep: bool) -> int:
    """Compare the ratios of a short set with the committed ones: `make bench-check`."""
    if not keep and not CHECKED.is_file():
        print(f"{CHECKED}: no committed ratios; `python -m benchmarks check --keep` writes them", file=sys.stderr)
        return 2
    found: dict[str, float] = {}
    for name, arguments in SHORT.items():
        for table in tables_of(name, list(arguments)):
            print(table.markdown())
            found |= {f"{name}: {key}": value for key, value in table.figures.items()}
    if keep:
        CHECKED.parent.mkdir(parents=True, exist_ok=True)
        CHECKED.write_text(json.dumps({"machine": machine(), "ratios": found}, indent=1) + "\n", encoding="utf-8")
        return 0
    return compare(found, json.loads(CHECKED.read_text(encoding="utf-8")))


def compare(found: dict[str, float], committed: dict[str, Any]) -> int:
    """Print each committed ratio beside the one of now; 1 where one fell below `TOLERANCE` of what it was."""
    here = machine()
    for key, value in committed["machine"].items():
        if here.get(key) != value and key != LOAD:
            print(f"the machine differs: {key} is {here.get(key)} here, {value} where the ratios were committed")
    ratios: dict[str, float] = committed["ratios"]
    fallen = [key for key, value in ratios.items() if found.get(key, 0.0) < TOLERANCE * value]
    for key, value in ratios.items():
        print(f"{'FELL' if key in fallen else 'ok  '} {key}: {found.get(key, 'not measured')} now, {value} committed")
    print(f"{len(ratios) - len(fallen)} of {len(ratios)} ratios are at least {TOLERANCE:.0%} of the committed ones")
    return 1 if fallen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
