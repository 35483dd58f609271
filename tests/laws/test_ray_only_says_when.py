"""Law: Ray only decides when and where a task runs. Jobs with `workers: 0` work where ray cannot be imported at all."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import microseg_ray

PACKAGE = Path(microseg_ray.__file__).parent

# psutil and monai are dependencies of the tests only; an installation of the package alone does not have them.
WITHOUT = """
import sys

class Refused:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"ray", "psutil", "monai"}:
            raise ImportError(f"{name} is not installed here")
        return None

sys.meta_path.insert(0, Refused())
"""


def without_ray(folder: Path, *jobs: list[object]) -> None:
    """Run jobs through the command line, one after another, in a process that cannot import ray."""
    (folder / "sitecustomize.py").write_text(WITHOUT, encoding="utf-8")
    code = "import sys\nfrom microseg_ray.cli import main\n"
    for job in jobs:
        code += f"code = main({list(map(str, job))!r})\nassert code == 0, ({str(job[0])!r}, code)\n"
    code += "assert 'ray' not in sys.modules\n"
    search = os.pathsep.join([str(folder), str(PACKAGE.parent)])
    ran = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": search, "OMP_NUM_THREADS": "1"},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout[-3000:] + ran.stderr[-3000:]


def test_tile_train_segment_and_evaluate_without_ray(pairs, tmp_path):
    data = ["--images", pairs / "images", "--masks", pairs / "masks", "--classes", "matrix,grain,pore"]
    config = tmp_path / "tiny.yaml"
    config.write_text(
        "train: {epochs: 1, steps_per_epoch: 1, batch: 2, threads: 1, model: {name: unet, width: 4, depth: 1}}\n",
        encoding="utf-8",
    )
    best = tmp_path / "fit" / "best"
    without_ray(
        tmp_path,
        ["tile", *data, "--output", tmp_path / "tiles", "--tile", 32, "--overlap", 0, "--workers", 0],
        ["train", config, "--tiles", tmp_path / "tiles", "--output", tmp_path / "fit", "--workers", 0],
        ["segment", "--archive", pairs / "images", "--checkpoint", best, "--output", tmp_path / "run", "--workers", 0],
        ["evaluate", *data, "--checkpoint", best, "--output", tmp_path / "judged", "--figures", "false"],
    )
    assert (tmp_path / "run" / "areas.csv").exists()
    assert (tmp_path / "judged" / "metrics.json").exists()


@pytest.mark.slow
def test_the_demo_without_ray(tmp_path):
    output = tmp_path / "demo"
    without_ray(
        tmp_path,
        ["demo", "--output", output, "--size", 256, "--count", 3, "--epochs", 1, "--workers", 0],
    )
    assert (output / "run" / "report.html").exists()


def test_only_on_ray_imports_ray():
    """At the top of a module or in a function: the import contract cannot see an import of an optional name."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if "on_ray" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [item.name for item in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found += [f"{path.name}: {name}" for name in names if name.partition(".")[0] == "ray"]
    assert found == []
