"""The pages agree with the code: modules, files and links that they name exist."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "microseg_ray"
PAGES = [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
CODE = [path for name in ("benchmarks", "jobs", "tests") for path in sorted((REPOSITORY / name).rglob("*.py"))]
# Words for a name that the reader chooses.
PLACEHOLDER = re.compile(r"\b(NAME|JOB)\b")


def name_of(path: Path) -> str:
    return str(path.relative_to(REPOSITORY))


def dotted_names(text: str) -> set[str]:
    """Modules, and what is in them, as `microseg_ray.geometry.Box`."""
    return {name.rstrip(".") for name in re.findall(r"\bmicroseg_ray(?:\.[A-Za-z_]\w*)+", text)}


def imported_names(text: str) -> set[str]:
    """What of the package a script imports: at the top, inside a function, or in code that it keeps as a string."""
    found = set(re.findall(r"^ *(?:from|import) (microseg_ray(?:\.\w+)*)", text, flags=re.MULTILINE))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("microseg_ray"):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.startswith("microseg_ray")}
    return found


def exists(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        try:
            found = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
            continue
        for attribute in parts[length:]:
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_a_module_that_a_page_names_can_be_imported(path: Path) -> None:
    assert [name for name in sorted(dotted_names(path.read_text("utf-8"))) if not exists(name)] == []


def test_a_name_that_is_gone_is_found() -> None:
    assert exists("microseg_ray.geometry.Box")
    assert not exists("microseg_ray.training.train")
    assert not exists("microseg_ray.geometry.Bax")
    assert dotted_names("see `microseg_ray.runs.plan`, or microseg_ray.stitch.") == {
        "microseg_ray.runs.plan",
        "microseg_ray.stitch",
    }


def test_the_modules_that_scripts_import_are_there() -> None:
    # Benchmarks are run by hand, so nothing else notices that a move broke one.
    named = {(name_of(path), name) for path in CODE for name in imported_names(path.read_text("utf-8"))}
    assert named
    assert sorted(pair for pair in named if not exists(pair[1])) == []


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_a_file_that_a_page_names_is_there(path: Path) -> None:
    named = re.findall(
        r"`(?:python )?((?:microseg_ray|benchmarks|configs|docs|jobs|tests)/[\w./-]*)", path.read_text("utf-8")
    )
    roots = (REPOSITORY, path.parent)
    missing = [
        name for name in named if not PLACEHOLDER.search(name) and not any((root / name).exists() for root in roots)
    ]
    assert missing == []


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_a_link_between_pages_leads_somewhere(path: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", path.read_text("utf-8"))
    assert [link for link in links if "://" not in link and not (path.parent / link).exists()] == []


def test_the_architecture_has_a_paragraph_for_every_station() -> None:
    text = (REPOSITORY / "docs" / "architecture.md").read_text("utf-8")
    described = set(re.findall(r"\*\*`(\w+)`\*\*", text))
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert described == there - {"__init__"}
