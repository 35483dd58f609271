"""A page of docs/recipes is run by the very commands that stand in it, with a smaller copy of its configs."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from microseg_ray.settings import JOBS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

REPOSITORY = Path(__file__).resolve().parent.parent


def commands(page: str) -> list[list[str]]:
    """The `microseg` lines of the page's bash blocks, as arguments after the program's name, in their order.

    A line may go on after a backslash.
    """
    text = (REPOSITORY / "docs/recipes" / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```bash\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("microseg ")]


def smaller(name: str, folder: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """A copy of configs/NAME.yaml in `folder/configs`, with some keys of some of its sections replaced."""
    document = yaml.safe_load((REPOSITORY / "configs" / f"{name}.yaml").read_text(encoding="utf-8"))
    for section, values in changes.items():
        assert section in document, f"{name}.yaml has no section {section}"
        document[section] |= values
    (folder / "configs").mkdir(exist_ok=True)
    (folder / "configs" / f"{name}.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


def go_through(page: str, microseg: Callable[..., Any], only: Collection[str] = JOBS) -> list[tuple[str, str]]:
    """Run the commands of a page, all or those of some jobs, where the test stands; job and what it printed."""
    printed = []
    for arguments in commands(page):
        if arguments[0] not in only:
            continue
        ran = microseg(*arguments)
        assert ran.code == 0, (arguments, ran.err, ran.out)
        printed.append((arguments[0], ran.out))
    return printed


TINY: dict[str, dict[str, Any]] = {
    "tile": {"tile": 64, "overlap": 0, "workers": 0},
    "train": {
        "epochs": 2,
        "batch": 4,
        "crop": None,
        "steps_per_epoch": 6,
        "workers": 0,
        "threads": 1,
        "model": {"name": "unet", "width": 4, "depth": 2},
    },
    "tune": {"epochs": 1, "steps_per_epoch": 2},
    "segment": {"workers": 0, "shard": 64},
    "evaluate": {"pictures": 1, "threads": 1},
}
"""What makes a recipe small enough for a test: everything but the steps themselves."""
