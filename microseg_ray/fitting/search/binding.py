"""What must hold before a search starts: settings that suit the store, and one search per folder."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING

from microseg_ray.accounts import ACCOUNTS_FILE
from microseg_ray.errors import RunMismatchError, SettingsError
from microseg_ray.files import whole_folder, write_json
from microseg_ray.fitting.search.trials import merged_settings
from microseg_ray.outputs import Kind, drop
from microseg_ray.recognition import is_checkpoint, read_record

if TYPE_CHECKING:
    from pathlib import Path

    from microseg_ray.fitting.search.trials import Trial
    from microseg_ray.settings import TuneSettings

__all__ = ["ENTRIES", "SEARCH_FILE", "bind_search", "check_bound", "check_search", "keep_best"]

SEARCH_FILE = "sweep.json"
ENTRIES = {
    "trials": Kind.SCRATCH,
    "ray": Kind.SCRATCH,
    "best": Kind.CHECKPOINT,
    **dict.fromkeys((SEARCH_FILE, "trials.csv", "trials.parquet", "trials.html", ACCOUNTS_FILE), Kind.FILE),
}
# Settings that may differ between two runs of one search: where and how fast it runs, and how long it goes on.
_NOT_DECIDING = ("tiles", "output", "ray", "concurrent", "cpus", "gpus", "threads", "overwrite", "max_failures")


def check_search(settings: TuneSettings) -> None:
    """Check the corners of the space against the tile store, before Ray is started.

    Raises:
        SettingsError: A name or value does not suit `train` or the store, or the store has no split val.
    """
    from microseg_ray.fitting.setup import check_fit
    from microseg_ray.fitting.workers import Workers

    corners = [
        {key: (space.values or (space.low, space.high))[place] for key, space in settings.search.items()}
        for place in (0, -1)
    ]
    for corner in corners:
        whole = {key: int(corner[key]) if space.integer else corner[key] for key, space in settings.search.items()}
        store = check_fit(merged_settings(settings, whole, settings.output), Workers())
    if not len(store.rows("val")):
        raise SettingsError(
            f"tune.tiles: {settings.tiles} has no split val, and the search must not select by what is trained on; "
            "tile again with data.splits that name a val"
        )


def _identity(settings: TuneSettings) -> str:
    """The digest of what decides a search."""
    from microseg_ray.tiles.store import TileStore

    chosen = {key: value for key, value in settings.resolved().items() if key not in _NOT_DECIDING}
    text = json.dumps([chosen, TileStore.open(settings.tiles).digest], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def check_bound(settings: TuneSettings, output: Path) -> None:
    """Refuse to mix two searches in one folder; a search in which no epoch was finished binds nothing.

    Raises:
        RunMismatchError: The output holds epochs of another search.
    """
    path = output / SEARCH_FILE
    older = read_record(path, "identity")
    if older is None or older["identity"] == _identity(settings):
        return
    if any((output / "trials").glob("**/metrics.csv")):
        raise RunMismatchError(
            f"tune.output: {output} holds a search with other settings or tiles; give another output, or --overwrite"
        )
    # Ray Tune would resume the trials that it planned for the other settings.
    drop(output, "tune", ("ray", SEARCH_FILE))


def bind_search(settings: TuneSettings, output: Path) -> None:
    """Record which search the output holds."""
    write_json(output / SEARCH_FILE, {"identity": _identity(settings), "settings": settings.resolved()})


def keep_best(trial: Trial, target: Path) -> None:
    """Copy the checkpoint of the best trial, whole or not at all."""
    with whole_folder(target, is_checkpoint) as partial:
        shutil.copytree(str(trial.checkpoint), partial)
