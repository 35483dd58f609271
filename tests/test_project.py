"""The repository itself: job scripts, configs, help and README agree with the jobs that exist."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from microseg_ray.cli import main
from microseg_ray.jobs import job_step
from microseg_ray.settings import JOBS, load_settings
from microseg_ray.settings.registry import module_name

REPOSITORY = Path(__file__).resolve().parent.parent
PACKAGE = REPOSITORY / "microseg_ray"
SCRIPTS = sorted((REPOSITORY / "jobs").glob("*.py"))
CONFIGS = sorted((REPOSITORY / "configs").glob("*.yaml"))
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
MAX_SCRIPT_LINES = 20
MAX_MODULE_LINES = 400


def _yaml_in_readme() -> list[str]:
    return re.findall(r"```yaml\n(.*?)```", README, flags=re.DOTALL)


def _sections(document: dict[str, object]) -> list[str]:
    return [name for name in document if name in JOBS]


def test_every_job_has_its_three_files_and_no_script_is_an_orphan() -> None:
    assert {path.stem for path in SCRIPTS} == {module_name(name) for name in JOBS}
    for name in JOBS:
        assert (PACKAGE / "settings" / f"{module_name(name)}.py").is_file()
        assert (PACKAGE / "jobs" / f"{module_name(name)}.py").is_file()
        assert JOBS[name].job == name
        assert job_step(name).__name__ == module_name(name)


@pytest.mark.parametrize("package", ["settings", "jobs"])
def test_a_module_that_is_no_job_is_imported_by_another(package: str) -> None:
    modules = {path.stem for path in (PACKAGE / package).glob("*.py")} - set(map(module_name, JOBS)) - {"__init__"}
    text = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    imported = set(re.findall(rf"from microseg_ray\.{package}\.(\w+) import", text))
    assert modules - imported == set()


def test_a_new_job_is_one_line_in_the_registry() -> None:
    """What handles all jobs names none of them."""
    general = ["base", "loading", "config_file", "arguments", "fields", "problems", "__init__"]
    for path in (*(PACKAGE / "settings" / f"{name}.py" for name in general), PACKAGE / "jobs" / "__init__.py"):
        words = {node.value for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Constant)}
        assert words & set(JOBS) == set(), path


@pytest.mark.parametrize("name", JOBS)
def test_the_summary_of_a_job_is_the_first_line_of_its_settings(name: str) -> None:
    assert (JOBS[name].__doc__ or "").startswith(f"`{name}`: {JOBS.summary(name)}.")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_is_short_and_runs_its_own_job(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) < MAX_SCRIPT_LINES
    call = next(node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.List))
    assert isinstance(call.elts[0], ast.Constant)
    assert module_name(call.elts[0].value) == path.stem


def test_no_module_is_long() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in PACKAGE.rglob("*.py")}
    assert {path: lines for path, lines in lengths.items() if lines > MAX_MODULE_LINES} == {}


def test_there_is_a_config() -> None:
    assert CONFIGS


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_loads_for_every_section_that_it_has(path: Path) -> None:
    sections = _sections(yaml.safe_load(path.read_text(encoding="utf-8")))
    assert sections
    for name in sections:
        load_settings(JOBS[name], [], path)


def test_help_lists_every_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert [name for name in JOBS if not re.search(rf"^  {name} ", shown, flags=re.MULTILINE)] == []


def test_the_readme_names_only_jobs_that_exist() -> None:
    block = re.compile(r"^```\w*\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
    commands = "\n".join([*block.findall(README), *re.findall(r"`([^`\n]+)`", README)])
    named = set(re.findall(r"(?:^|[\s=])(?:\.venv/bin/)?microseg ([a-z]+(?:-[a-z]+)*)", commands))
    named |= {name.replace("_", "-") for name in re.findall(r"jobs/([a-z_]+)\.py", commands)}
    assert {"tile", "train", "evaluate", "segment"} <= named
    assert named - set(JOBS) == set()


def test_the_readme_tells_of_every_job() -> None:
    assert set(re.findall(r"^\| `([a-z-]+)` \|", README, flags=re.MULTILINE)) == set(JOBS)


def test_the_readme_names_only_options_that_exist() -> None:
    for job, options in re.findall(r"microseg ([a-z-]+)((?: [^`\n#]+)?)", README):
        for option in re.findall(r"--([a-z_.]+)", options):
            if job in JOBS:
                assert option.split(".")[0] in JOBS[job].model_fields, f"microseg {job} --{option}"


@pytest.mark.parametrize("text", _yaml_in_readme())
def test_the_readmes_config_loads(text: str, tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(text, encoding="utf-8")
    for name in _sections(yaml.safe_load(text)):
        load_settings(JOBS[name], [], path)


def test_the_readmes_stitching_example_runs(tmp_path: Path) -> None:
    example = next(text for text in re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL) if "stitch(" in text)
    check = "\nassert mask.shape == (300, 200)\nassert (mask == (micrograph > 0.5)).all()\nassert (array[:] == mask).all()\n"
    done = subprocess.run(
        [sys.executable, "-c", example + check], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[0 0 0 0 0 1 1 1 1 1]"


def test_importing_the_package_loads_neither_ray_nor_torch() -> None:
    code = "import sys, microseg_ray; print(sorted({'ray', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "[]"


def _modules_after(code: str) -> set[str]:
    command = f"import sys; {code}; print(*sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, timeout=120, check=True)
    return set(done.stderr.split())


def test_help_loads_nothing_but_the_registry() -> None:
    loaded = _modules_after("from microseg_ray.cli import main; main(['--help'])")
    assert {name for name in loaded if name.startswith("microseg_ray.")} == {
        "microseg_ray.cli",
        "microseg_ray.errors",
        "microseg_ray.names",
        "microseg_ray.settings",
        "microseg_ray.settings.registry",
    }
    assert not loaded & {"pydantic", "rich", "numpy", "torch", "ray"}


def test_a_job_loads_no_other_job_and_without_workers_no_ray() -> None:
    arguments = ["segment", "--archive", "nowhere", "--checkpoint", "nowhere", "--output", "nowhere", "--workers", "0"]
    loaded = _modules_after(f"from microseg_ray.cli import main; assert main({arguments}) == 1")
    for package in ("settings", "jobs"):
        own = {name.rpartition(".")[2] for name in loaded if name.startswith(f"microseg_ray.{package}.")}
        assert own & set(map(module_name, JOBS)) == {"segment"}
    assert "ray" not in loaded


def test_every_requirement_is_pinned() -> None:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    # The development extra names the other extras that the tests use.
    extras = {"dev", *re.search(r"\[(.*)\]", project["optional-dependencies"]["dev"][0]).group(1).split(",")}
    wanted = [*project["dependencies"], *(line for name in extras for line in project["optional-dependencies"][name])]
    wanted = [line for line in wanted if _name(line) != "microseg-ray"]
    pinned = {_name(line) for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()}
    assert [requirement for requirement in wanted if _name(requirement) not in pinned] == []


def _name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", found.group()).lower() if found else ""


def test_every_decision_that_the_code_names_is_there() -> None:
    sources = [*(REPOSITORY / "microseg_ray").rglob("*.py"), REPOSITORY / "pyproject.toml"]
    named = {number for path in sources for number in re.findall(r"docs/decisions/(\d{4})", path.read_text("utf-8"))}
    assert named
    assert named - {path.name[:4] for path in (REPOSITORY / "docs" / "decisions").glob("*.md")} == set()
