"""Every real file that went wrong has its truth in a test of this folder, and goes through the jobs without a trace lost."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
# Beside another file: it is read through that one.
BESIDE = {"README.md", "multifile.companion.ome"}


def test_every_file_is_named_in_a_test(faults):
    sources = "\n".join(
        path.read_text(encoding="utf-8") for path in HERE.glob("test_*.py") if path.name != Path(__file__).name
    )
    lacking = [path.name for path in faults.iterdir() if path.name not in BESIDE and f'"{path.name}"' not in sources]
    # Image and annotation are named by their own tests through a folder.
    assert [name for name in lacking if name not in sources] == []


def test_the_readme_lists_every_file(faults):
    text = (faults / "README.md").read_text(encoding="utf-8")
    lacking = [path.name for path in faults.iterdir() if path.name not in text and path.name not in BESIDE]
    # A pair is written with one name.
    assert [name for name in lacking if not re.search(rf"{re.escape(Path(name).stem)}\.\w+", text)] == []


def test_none_leaves_the_catalog_without_a_trace(faults, tmp_path, microseg):
    ran = microseg("catalog", "--images", faults, "--output", tmp_path / "c.csv")
    assert ran.code == 3
    found = re.search(r"files: (\d+) seen = (\d+) used \+ (\d+) set aside \+ (\d+) not taken", ran.out)
    assert found is not None, ran.out
    seen, used, aside, left = map(int, found.groups())
    assert seen == used + aside + left == sum(path.is_file() for path in faults.iterdir())
    for name in ("eels_spectrum_image.dm4", "tia.emi"):
        assert f"{name} (open)" in ran.out or f"{name}" in ran.out
