"""What `import microseg_ray` gives, and what it does not drag in."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import microseg_ray
import microseg_ray.stitching

HEAVY = ("ray", "torch", "matplotlib", "scipy", "pandas", "skimage", "dask")


def loaded_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    return set(result.stdout.split())


WITHOUT_TORCH = (
    "settings",
    "stitching.seams",
    "runs.store.masks",
    "tiles.store",
    "statistics.areas",
    "catalog",
    "evaluation.metrics",
    "models.card",
)


def test_neither_ray_nor_torch_is_loaded() -> None:
    modules = ", ".join(f"microseg_ray.{name}" for name in WITHOUT_TORCH)
    assert not loaded_after(f"import {modules}") & {"ray", "torch"}


def test_the_viewer_loads_no_report_page() -> None:
    assert not loaded_after("import microseg_ray.report.viewer.server, microseg_ray.report.viewer.state") & {"jinja2"}


def test_import_is_light() -> None:
    assert not loaded_after("import microseg_ray") & set(HEAVY)


def test_geometry_stands_on_the_standard_library() -> None:
    # The package's own __init__ imports more, so the file is loaded by itself.
    file = microseg_ray.geometry.__file__
    loaded = loaded_after(f"import runpy; runpy.run_path({file!r}, run_name='geometry')")
    assert not loaded & {"numpy", "pydantic", "zarr", *HEAVY}


def test_the_names_are_pinned() -> None:
    assert microseg_ray.__all__ == [
        "Box",
        "MicrosegError",
        "Tile",
        "TileGrid",
        "open_micrograph",
        "stitch",
        "tiles_on_disk",
    ]
    assert microseg_ray.stitching.__all__ == [
        "BLENDS",
        "EnginePlan",
        "Extra",
        "Predictor",
        "ShardPixels",
        "engine_grid",
        "predict_shard",
        "shard_window",
        "stitch",
        "tiles_on_disk",
        "window",
    ]
    for package in (microseg_ray, microseg_ray.stitching):
        assert all(hasattr(package, name) for name in package.__all__)


def test_the_version_is_the_packages() -> None:
    assert microseg_ray.__version__ == metadata.version("microseg_ray")
