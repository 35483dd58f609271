"""The trials of a search: the settings of each one, and its outcome."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import SettingsError
from microseg_ray.settings import TrainSettings, TuneSettings, settings_from

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from microseg_ray.accounts import Account

__all__ = ["Trial", "Tuned", "merged_settings", "number_of_trials", "ranked", "trial_of"]

_SEARCH_ONLY = (
    "trials", "search", "algorithm", "scheduler", "grace", "reduction", "objective", "concurrent", "cpus", "gpus", "data",
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One trial of a search.

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
    """The result of a search.

    Attributes:
        trials: The best first, failed ones last.
        best: OUTPUT/best, the best trial's checkpoint.
        objective: Which score.
        accounts: Tiles: seen = used + set aside + not taken.
    """

    trials: tuple[Trial, ...]
    best: Path
    objective: str
    accounts: tuple[Account, ...] = ()


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
    # As it was given: a searched option may belong to another architecture than the default.
    document["model"] = settings.model.model_dump(mode="json", exclude_unset=True)
    for key, value in values.items():
        _put(document, key, value)
    try:
        return settings_from(TrainSettings, document)
    except SettingsError as error:
        raise SettingsError(
            f"tune.search: {', '.join(f'{key}={value}' for key, value in values.items())}: {error}"
        ) from error


def number_of_trials(settings: TuneSettings) -> int:
    """Number of trials of a search; a grid tries each combination once, whatever `trials` says.

    Example:
        >>> search = {"model.width": [2, 4], "model.depth": [1, 2, 3]}
        >>> [
        ...     number_of_trials(TuneSettings(tiles="t", output="o", trials=5, search=search, algorithm=name))
        ...     for name in ("grid", "random")
        ... ]
        [6, 5]
    """
    if settings.algorithm != "grid":
        return settings.trials
    return math.prod(len(space.values or ()) for space in settings.search.values())


def trial_of(
    metrics: Mapping[str, Any], config: Mapping[str, Any], error: Exception | None, settings: TuneSettings
) -> Trial:
    """The outcome of a trial.

    Args:
        metrics: The last that it reported, with `trial_id` and `time_total_s` of Ray Tune.
        config: Its configuration; `values` holds the searched settings.
        error: Why it failed, or None.
        settings: The search.
    """
    epochs = int(metrics.get("epoch", 0))
    folder = Path(str(metrics.get("folder", "")))
    best = folder / "best"
    score = metrics.get(settings.objective)
    return Trial(
        name=str(metrics.get("trial_id", folder.name)),
        values=dict(config.get("values", {})),
        score=None if score is None else float(score),
        epochs=epochs,
        seconds=float(metrics.get("time_total_s", 0.0)),
        state="failed" if error is not None else "done" if epochs >= settings.epochs else "stopped",
        checkpoint=best if metrics and best.is_dir() else None,
        reason="" if error is None else " ".join(str(error).split())[-300:],
    )


def ranked(trials: Iterable[Trial], *, higher_is_better: bool) -> list[Trial]:
    """The best trial first, those without a score last."""
    sign = -1.0 if higher_is_better else 1.0
    return sorted(trials, key=lambda trial: (trial.score is None, sign * (trial.score or 0.0), trial.name))
