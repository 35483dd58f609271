"""Runs the commands of a page in docs/recipes on small settings, so that the page cannot rot.

Every ```bash block of the page counts. Its `microseg ...` lines run through the command line's own entry, in the page's
order, in a folder that looks like the repository: `configs/` holds copies of the configs that the page names, changed as the
test says. Data lie where the configs look for them; the test puts them there. What is not to be run stands in a block of
another kind (```text).
"""

from __future__ import annotations

import re
import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from microseg_ray.cli import main

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

REPOSITORY = Path(__file__).resolve().parent.parent.parent
SHELL = {"sed", "mkdir", "cp"}
"""What else a page may run, by bash."""

_BASH = re.compile(r"^```bash\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Ran:
    """One line of a page: its words after `microseg`, and the exit code."""

    words: tuple[str, ...]
    code: int


def lines(page: Path) -> list[str]:
    """The command lines of a page in order; a backslash at the end joins lines."""
    text = "\n".join(_BASH.findall(page.read_text(encoding="utf-8"))).replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def commands(page: Path) -> list[tuple[str, ...]]:
    """The words of each `microseg` line of a page, without `microseg`."""
    words = [shlex.split(line, comments=True) for line in lines(page)]
    return [tuple(line[1:]) for line in words if line[0] == "microseg"]


def copy_configs(page: Path, workspace: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Copy the configs that a page names into `workspace/configs`.

    Args:
        page: The page.
        workspace: The folder that stands in for the repository.
        changes: By config, `{"configs/a.yaml": {"train.epochs": 1}}`: dotted keys and what stands there instead; None
            takes the key away. Each key's section must be in the config, so that a change that changes nothing is an error.
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
            if value is None:
                del place[last]
            else:
                place[last] = value
        (workspace / name).write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def run_page(page: Path, workspace: Path, allowed: Sequence[int] = (0,)) -> list[Ran]:
    """Run the commands of a page; the working directory must be `workspace`.

    Args:
        page: The page.
        workspace: Where `copy_configs` wrote to.
        allowed: Exit codes that are as they should be.

    Returns:
        What ran, in order. The first line that fails is an assertion error that names it.
    """
    assert Path.cwd() == workspace
    ran = []
    for line in lines(page):
        program, *words = shlex.split(line, comments=True)
        if program in SHELL:
            subprocess.run(["bash", "-c", line], check=True)
            continue
        assert program == "microseg", f"{page.name}: `{line}` is not run; put it into a block of another kind"
        code = main(words)
        assert code in allowed, f"{page.name}: `{line}` ended with {code}"
        ran.append(Ran(tuple(words), code))
    assert ran, f"{page} has no `microseg` line in a bash block"
    return ran
