"""Runs the commands of a page in docs/recipes with smaller configs, so that the page stays correct.

All ```bash blocks of a page count. Their `microseg` lines run in the page's order, in a folder that looks like the repository:
`configs/` holds copies of the configs that the page names, with changes. Data lie where the configs look for them; the test puts
them there. A command that is not to be run belongs into a block of another kind (```text).
"""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from microseg_ray.settings import JOBS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

REPOSITORY = Path(__file__).resolve().parent.parent
SHELL = {"sed", "mkdir", "cp"}
"""Programs other than `microseg` that are run, by bash."""
SHOWN_ONLY = {"tensorboard"}
"""Programs that a page may show and that are not run."""

TINY: dict[str, Any] = {
    "tile.tile": 64,
    "tile.overlap": 0,
    "tile.workers": 0,
    "train.epochs": 2,
    "train.batch": 4,
    "train.crop": None,
    "train.steps_per_epoch": 6,
    "train.workers": 0,
    "train.threads": 1,
    "train.model": {"name": "unet", "width": 4, "depth": 2},
    "tune.epochs": 1,
    "tune.steps_per_epoch": 2,
    "segment.workers": 0,
    "segment.shard": 64,
    "evaluate.pictures": 1,
    "evaluate.threads": 1,
}
"""Changes that make a recipe small enough for a test; its steps stay the same."""

_BASH = re.compile(r"^```bash\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Ran:
    """One `microseg` line of a page: its arguments, and what it printed."""

    arguments: tuple[str, ...]
    out: str

    @property
    def job(self) -> str:
        return self.arguments[0]


def page_at(name: str) -> Path:
    return REPOSITORY / "docs/recipes" / name


def lines(page: Path) -> list[str]:
    """The command lines of a page in order; a backslash at the end joins lines."""
    text = "\n".join(_BASH.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def commands(page: Path) -> list[tuple[str, ...]]:
    """The arguments of each `microseg` line of a page."""
    words = [shlex.split(line, comments=True) for line in lines(page)]
    return [tuple(line[1:]) for line in words if line[0] == "microseg"]


def copy_configs(page: Path, workspace: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Copy the configs that a page names into `workspace/configs`.

    Args:
        page: The page.
        workspace: The folder that takes the place of the repository.
        changes: By config, `{"configs/a.yaml": {"train.epochs": 1}}`: dotted keys and their values. The sections of a key must be
            in the config, so that a change without an effect is an error.
    """
    named = {word for line in commands(page) for word in line if re.fullmatch(r"configs/\w+\.yaml", word)}
    assert set(changes) <= named, f"{page} does not name {set(changes) - named}"
    (workspace / "configs").mkdir(parents=True, exist_ok=True)
    for name in sorted(named):
        document = yaml.safe_load((REPOSITORY / name).read_text(encoding="utf-8"))
        for key, value in changes.get(name, {}).items():
            *sections, last = key.split(".")
            place = document
            for section in sections:
                place = place[section]
            place[last] = value
        (workspace / name).write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def run_page(
    page: Path, microseg: Callable[..., Any], only: Collection[str] = JOBS, codes: Mapping[str, int] | None = None
) -> list[Ran]:
    """Run the commands of a page in the current folder, where `copy_configs` wrote to.

    Args:
        page: The page.
        microseg: The fixture of this name.
        only: Jobs that are run.
        codes: Exit codes by job, where they are not 0.

    Returns:
        What ran, in order. The first line that fails is an assertion error that names it.
    """
    ran = []
    for line in lines(page):
        program, *words = shlex.split(line, comments=True)
        if program in SHELL:
            subprocess.run(["bash", "-c", line], check=True)
        elif program not in SHOWN_ONLY:
            assert program == "microseg", f"{page.name}: `{line}` is not run; put it into a block of another kind"
            if words[0] in only:
                done = microseg(*words)
                assert done.code == (codes or {}).get(words[0], 0), (
                    f"{page.name}: `{line}` ended with {done.code}: {done.err} {done.out}"
                )
                ran.append(Ran(tuple(words), done.out))
    assert ran, f"{page} has no `microseg` line in a bash block"
    return ran
