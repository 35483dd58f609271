"""confusion_per_image.csv: the confusion matrix of each micrograph, from which any figure of masks can be had again."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.errors import UNREADABLE, ObjectStoreError, SettingsError
from microseg_ray.evaluation.metrics import ConfusionMatrix
from microseg_ray.files import place
from microseg_ray.settings import IGNORE_INDEX
from microseg_ray.tables import write_csv

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from microseg_ray.files import Place, Where
    from microseg_ray.settings import ClassSpec

__all__ = ["CONFUSIONS_FILE", "Confusions", "read_confusions", "write_confusions"]

CONFUSIONS_FILE = "confusion_per_image.csv"
_COLUMNS = ("micrograph", "group", "true_index", "predicted_index", "true", "predicted", "pixels")
_WITHHELD = "(withheld)"


@dataclass(frozen=True, eq=False)
class Confusions:
    """What an evaluation counted.

    Attributes:
        path: The file.
        matrices: By micrograph.
        groups: The group of each micrograph.
    """

    path: Place
    matrices: Mapping[str, ConfusionMatrix]
    groups: Mapping[str, str]


def write_confusions(
    path: Place, matrices: Mapping[str, ConfusionMatrix], groups: Mapping[str, str], classes: Sequence[str]
) -> None:
    """Write a row per micrograph, true class and predicted class; predicted index 255 is what was withheld.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     table = Path(folder, "confusion_per_image.csv")
        ...     write_confusions(table, {"a.png": ConfusionMatrix(np.array([[2]]), np.array([1]))}, {}, ["clay"])
        ...     print(table.read_text())
        micrograph,group,true_index,predicted_index,true,predicted,pixels
        a.png,a.png,0,0,clay,clay,2
        a.png,a.png,0,255,clay,(withheld),1
    """
    predicted = (*enumerate(classes), (IGNORE_INDEX, _WITHHELD))
    rows = (
        (name, groups.get(name, name), true, guess, true_name, guess_name, _pixels(matrix, true, guess))
        for name, matrix in matrices.items()
        for true, true_name in enumerate(classes)
        for guess, guess_name in predicted
    )
    write_csv(path, _COLUMNS, rows)


def read_confusions(folder: Where, specs: Sequence[ClassSpec]) -> Confusions:
    """Read what another evaluation counted.

    Args:
        folder: Its folder, or the file itself.
        specs: The classes that it must have, in this order.

    Raises:
        SettingsError: The file is missing, damaged or of other classes.
    """
    path = place(folder)
    path = path / CONFUSIONS_FILE if path.is_dir() else path
    names = [spec.name for spec in specs]
    counts: dict[str, np.ndarray[tuple[int, int], np.dtype[np.int64]]] = {}
    groups: dict[str, str] = {}
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            for row in csv.DictReader(file):
                true, guess = _cell(row, names)
                table = counts.setdefault(row["micrograph"], np.zeros((len(names), len(names) + 1), np.int64))
                table[true, guess] = pixels = int(row["pixels"])
                if pixels < 0:
                    raise ValueError(f"{pixels} pixels")
                groups[row["micrograph"]] = row["group"]
    except _OtherClassError as error:
        raise SettingsError(f"{path}: {error}; give an evaluation of the same classes") from error
    except FileNotFoundError as error:
        raise SettingsError(
            f"{path}: not there; give the folder of an evaluation (`microseg evaluate` writes {CONFUSIONS_FILE})"
        ) from error
    except ObjectStoreError:
        raise
    except (OSError, *UNREADABLE) as error:
        raise SettingsError(f"{path}: cannot be read as {CONFUSIONS_FILE} ({error}); evaluate again") from error
    if not counts:
        raise SettingsError(f"{path}: holds no micrograph; evaluate again")
    matrices = {name: ConfusionMatrix(table[:, :-1], table[:, -1]) for name, table in counts.items()}
    return Confusions(path, matrices, groups)


class _OtherClassError(Exception):
    """A class that this job does not have."""


def _cell(row: Mapping[str, str], names: Sequence[str]) -> tuple[int, int]:
    """Row and column of a cell of the table; the last column is what was withheld."""
    true, guess = int(row["true_index"]), int(row["predicted_index"])
    wanted = [(true, row["true"])] if guess == IGNORE_INDEX else [(true, row["true"]), (guess, row["predicted"])]
    for index, name in wanted:
        if list(names[index : index + 1]) != [name]:
            raise _OtherClassError(f"class {name!r} with index {index} is not a class of this job ({', '.join(names)})")
    return true, min(guess, len(names))


def _pixels(matrix: ConfusionMatrix, true: int, guess: int) -> int:
    return int(matrix.withheld[true] if guess == IGNORE_INDEX else matrix.counts[true, guess])
