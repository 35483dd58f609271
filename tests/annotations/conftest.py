"""Fixtures of annotations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import tifffile

from tests.annotations.drawn import SIDE, add_image

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with one micrograph of 64 px."""
    folder = tmp_path / "images"
    add_image(folder / "a.png")
    return folder


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    folder = tmp_path / "stack"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", np.zeros((3, SIDE, SIDE), np.uint8), photometric="minisblack")
    return folder
