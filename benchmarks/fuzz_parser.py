"""One parser for `python -m benchmarks fuzz`, and what the small files of several hold."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.settings import ClassSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


__all__ = ["CLASSES", "GRAY", "SHAPE", "SQUARE", "Parser", "texts"]

SHAPE = (40, 50)


GRAY = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)


CLASSES = (ClassSpec(name="matrix"), ClassSpec(name="pore"))


SQUARE = [[10, 10], [20, 10], [20, 30], [10, 30]]


@dataclass(frozen=True)
class Parser:
    """One parser.

    Attributes:
        make: Writes valid files into a folder and gives the paths that are damaged, one at a time.
        read: Reads what the path belongs to.
    """

    make: Callable[[Path], Sequence[Path]]
    read: Callable[[Path], object]


def texts(*files: tuple[str, str]) -> Callable[[Path], Sequence[Path]]:
    def make(folder: Path) -> Sequence[Path]:
        for name, text in files:
            (folder / name).write_text(text, encoding="utf-8")
        return [folder / name for name, _ in files]

    return make
