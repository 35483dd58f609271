"""The trials of a search: which settings each one has, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import SettingsError
from microseg_ray.settings import TrainSettings, TuneSettings, settings_from

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = ["Trial", "Tuned", "merged_settings"]

_SEARCH_ONLY = (
    "trials", "search", "algorithm", "scheduler", "grace", "reduction", "objective", "concurrent", "cpus", "gpus", "data",
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep.

    Attributes:
        name: Ray Tune's name of it, and its folder in OUTPUT/trials.
        values: The settings that were searched, by dotted name.
        score: The objective at its best; None where the trial failed before it had one.
        epochs: Epochs done.
        seconds: Spent on it.
        state: "done", "stopped" (by the scheduler) or "failed".
        checkpoint: Its best checkpoint, or None.
        reason: Why it failed.
    """

    name: str
    values: dict[str, Any]
    score: float | None
    epochs: int
    seconds: float
    state: str
    checkpoint: Path | None
    reason: str = ""


@dataclass(frozen=True)
class Tuned:
    """What a sweep came to.

    Attributes:
        trials: The best first, failed ones last.
        best: OUTPUT/best, the best trial's checkpoint.
        objective: Which score.
    """

    trials: tuple[Trial, ...]
    best: Path
    objective: str


def _put(document: dict[str, Any], key: str, value: Any) -> None:
    """Put a value at a dotted name; a number in the name is a place in a list, `class_weights.1`."""
    *path, last = key.split(".")
    section: Any = document
    for part in path:
        if not isinstance(section, dict):
            raise SettingsError(f"tune.search.{key}: train has no such setting")
        if isinstance(section.get(part), bool) or section.get(part) is None:
            section[part] = {}
        section = section[part]
    match section:
        case dict():
            # What the search says is what the user says: an option of one architecture may be absent in the resolved document.
            section[last] = value
        case list() if last.isdecimal() and int(last) < len(section):
            section[int(last)] = value
        case _:
            raise SettingsError(f"tune.search.{key}: train has no such setting")


def merged_settings(settings: TuneSettings, values: Mapping[str, Any], output: str) -> TrainSettings:
    """The settings of one trial.

    Args:
        settings: The search's.
        values: Of the searched settings, by dotted name; a number is a place in a list, `class_weights.1`.
        output: The trial's folder.

    Raises:
        SettingsError: A name that `train` does not have, or a value that it cannot have.
    """
    document = {key: value for key, value in settings.resolved().items() if key not in _SEARCH_ONLY}
    # A trial is one process; Ray Tune runs as many at a time as it may.
    document |= {"output": output, "overwrite": False, "workers": 0}
    for key, value in values.items():
        _put(document, key, value)
    try:
        return settings_from(TrainSettings, document)
    except SettingsError as error:
        raise SettingsError(
            f"tune.search: {', '.join(f'{key}={value}' for key, value in values.items())}: {error}"
        ) from error
