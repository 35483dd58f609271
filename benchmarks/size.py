"""How large the code is: `python benchmarks/size.py [CHECKOUT ...]` prints a line per checkout (default: this one)."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

OPTIONS = """
from microseg_ray.settings import JOBS
from pydantic import BaseModel

def leaves(cls):
    for field in cls.model_fields.values():
        kind = field.annotation
        yield from leaves(kind) if isinstance(kind, type) and issubclass(kind, BaseModel) else [field]

print(sum(len(list(leaves(cls))) for cls in JOBS.values()))
"""
HEADER = "| checkout | top-level names | modules | lines | settings fields | options of all jobs | test modules | test lines |"


def declared_fields(folder: Path) -> int:
    """Fields that the settings classes declare, each counted where it is written."""
    return sum(
        isinstance(node, ast.AnnAssign) and "ClassVar" not in ast.unparse(node.annotation)
        for path in folder.rglob("*.py")
        for cls in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(cls, ast.ClassDef)
        for node in cls.body
    )


def offered_options(checkout: Path) -> int:
    """What the jobs accept together: nested sections are followed, optional ones count once."""
    done = subprocess.run(
        [sys.executable, "-c", OPTIONS],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
        check=True,
    )
    return int(done.stdout)


def lines(paths: list[Path]) -> int:
    return sum(len(path.read_text("utf-8").splitlines()) for path in paths)


def row(checkout: Path) -> str:
    package = checkout / "microseg_ray"
    names = [path for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    modules, tests = sorted(package.rglob("*.py")), sorted((checkout / "tests").rglob("*.py"))
    figures = (
        len([path for path in names if path.name != "__init__.py"]),
        len(modules),
        lines(modules),
        declared_fields(package / "settings"),
        offered_options(checkout),
        len(tests),
        lines(tests),
    )
    return f"| {checkout} | " + " | ".join(str(figure) for figure in figures) + " |"


if __name__ == "__main__":
    here = Path(__file__).resolve().parent.parent
    print(HEADER + "\n|" + "---|" * HEADER.count(" | ") + "---|")
    for given in sys.argv[1:] or [str(here)]:
        print(row(Path(given).resolve()))
