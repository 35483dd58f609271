"""The train job without Ray: a fit in this process, or on workers that the caller launches (`on_ray.fits`).

The state of a fit lives in OUTPUT (docs/decisions/0002): a worker or a driver that dies is started again and goes on from
there, whoever starts it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from microseg_ray.accounts import ACCOUNTS_FILE, Account, write_accounts
from microseg_ray.errors import SettingsError
from microseg_ray.fence import Fence
from microseg_ray.figures import plot_training
from microseg_ray.files import absolute_text, delete_file, sole_writer, write_json, write_text
from microseg_ray.fitting.history import read_history
from microseg_ray.names import text
from microseg_ray.outputs import Kind, claim, drop, settle
from microseg_ray.quarantine import FAILURES_FILE, Failure, write_failures
from microseg_ray.recognition import is_record
from microseg_ray.settings import TrainSettings

if TYPE_CHECKING:
    from microseg_ray.fitting.history import EpochReport
    from microseg_ray.fitting.workers import Workers
    from microseg_ray.settings import PretrainSettings
    from microseg_ray.settings.epochs import EpochSettings
    from microseg_ray.tiles.unlabelled import Drawn

__all__ = ["StopFit", "TrainProgress", "Trained", "local_device", "run_fit", "taken", "train"]

PROGRESS_FILE = ".progress.json"
OWNER = "train"
ENTRIES = {
    "best": Kind.CHECKPOINT,
    "last": Kind.CHECKPOINT,
    "epochs": Kind.CHECKPOINTS,
    "events": Kind.EVENTS,
    "unlabelled/tiles.zarr": Kind.STORE,
    **dict.fromkeys(
        (
            PROGRESS_FILE,
            "state.pt",
            "state.before.pt",
            "settings.json",
            "metrics.csv",
            "mlflow_run",
            "weights.json",
            "curves.png",
            "unlabelled/tiles.parquet",
            FAILURES_FILE,
            ACCOUNTS_FILE,
        ),
        Kind.FILE,
    ),
}
"""What a fit creates in its output."""
_TAKEN = ("train", "val")
STOP_FILE = ".stop"
END_FILE = ".end"
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class TrainProgress:
    """The progress of a fit.

    Attributes:
        epoch: The running epoch, from 1.
        epochs: Epochs in all.
        step: Steps done in it.
        steps: Steps of an epoch.
        last: The last finished epoch's report as plain values, or None.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    last: dict[str, Any] | None

    @property
    def counted(self) -> tuple[int, int]:
        """Steps done and steps in all; epochs where an epoch has one step or its steps are not known."""
        if self.steps > 1:
            return (self.epoch - 1) * self.steps + self.step, self.epochs * self.steps
        return self.epoch, self.epochs


@dataclass(frozen=True)
class Trained:
    """The result of the train job.

    Attributes:
        best: Checkpoint of the best epoch.
        last: Checkpoint of the last epoch.
        history: One mapping per epoch, as in metrics.csv.
        stopped: Why the fit ended before its last epoch; empty where it did not.
        weights: How much of `model.weights` was used, a line to print; weights.json lists all names. Empty without.
        accounts: Tiles: seen = used + set aside + not taken; with `unlabelled`, its files, too.
        failures: Files of `unlabelled` that were set aside.
    """

    best: Path
    last: Path
    history: list[dict[str, Any]]
    stopped: str = ""
    weights: str = ""
    accounts: tuple[Account, ...] = ()
    failures: tuple[Failure, ...] = ()


class StopFit(Exception):  # noqa: N818 - a request to stop, not an error
    """Raised by a `report` to end the fit after the running epoch; its state is kept, and the same settings resume it."""


Report = Callable[[TrainProgress], None]
EpochHook = Callable[["EpochReport"], None]
S = TypeVar("S", bound="EpochSettings")
FitFunction = Callable[
    [S, "Workers", Callable[["EpochReport"], bool | None], Callable[[int, int, int], None]],
    str,
]
"""Settings, worker, what is called after each epoch and after each step -> why it ended early."""
Launch = Callable[[TrainSettings, Report], None]


def train(settings: TrainSettings, report: Report = lambda _: None, launch: Launch | None = None) -> Trained:
    """Train a model on a tile store, or resume an interrupted fit.

    Args:
        settings: The job's settings; `workers: 0` runs in this process, without Ray.
        report: Called with the progress about once a second and after each epoch. If it raises `StopFit`, the fit ends
            after the running epoch, or after the next one where workers run it elsewhere.
        launch: Runs `run_fit` on `workers` workers where that is above 0; `on_ray.fits` has one.

    Returns:
        The checkpoints and the history.

    Raises:
        SettingsError: The output holds another fit, or settings do not suit the tile store.
        StoreError: The tile store cannot be read.
        RunMismatchError: Another job is training into the same output.
        MicrosegError: A worker failed more often than `max_failures`.
    """
    if settings.workers and launch is None:
        raise SettingsError(
            f"train.workers: {settings.workers} workers need Ray; call microseg_ray.on_ray.fits.train, or give workers 0 to "
            "train in this process"
        )
    from microseg_ray.fitting.precision import settled

    settings = settled(settings, gpu=settings.gpu)
    _check_early(settings)
    with sole_writer(settings.output):
        # A worker of an earlier job that lives on writes nothing any more.
        Fence.raised(settings.output)
        return _train(settings, report, launch)


def _train(settings: TrainSettings, report: Report, launch: Launch | None) -> Trained:
    output = Path(settings.output).absolute()
    # An output of an earlier version has no manifest.
    claim(output, OWNER, ENTRIES, proven=is_record(output / "settings.json", "tiles", "optimizer"))
    if settings.overwrite:
        drop(output, OWNER)
    for name in (STOP_FILE, END_FILE):
        delete_file(output / name)
    # From here on a restarted worker must resume, not start afresh again.
    settings = settings.model_copy(
        update={"overwrite": False, "output": str(output), "tiles": absolute_text(settings.tiles)}
    )
    write_json(output / "settings.json", settings.resolved())
    drawn = _draw(settings)
    if settings.workers == 0 or launch is None:
        from microseg_ray.fitting.loop import fit
        from microseg_ray.fitting.workers import Workers

        run_fit(settings, Workers(device=local_device(settings)), report, fit=fit)
    else:
        launch(settings, report)
    stopped = taken(output / END_FILE)
    delete_file(output / STOP_FILE)
    plot_training(output / "curves.png", output / "metrics.csv")
    accounts = (tile_account(settings.tiles), *(() if drawn is None else drawn.accounts))
    write_accounts(output / ACCOUNTS_FILE, accounts)
    settle(output, OWNER)
    failures = () if drawn is None else drawn.failures
    weights = weights_report(output)
    return Trained(output / "best", output / "last", read_history(output), stopped, weights, accounts, failures)


def _draw(settings: TrainSettings) -> Drawn | None:
    """The squares of `unlabelled`, drawn once for all workers; None without.

    Raises:
        SettingsError: They do not suit the tiles, or the output holds a fit with others.
    """
    if settings.unlabelled is None:
        return None
    from microseg_ray.fitting.unlabelled import Unlabelled, draw_unlabelled
    from microseg_ray.fitting.workers import Workers
    from microseg_ray.tiles.store import TileStore

    drawn = draw_unlabelled(settings)
    if drawn is not None:
        write_failures(Path(settings.output) / FAILURES_FILE, drawn.failures)
    # What is wrong is found before any worker is started.
    Unlabelled.open(settings, TileStore.open(settings.tiles), Workers(world=max(1, settings.workers)))
    return drawn


def tile_account(tiles: str) -> Account:
    """The tiles of a store: trained on or judged, or of a split that no fit takes.

    Args:
        tiles: Folder of the tile store.
    """
    from microseg_ray.tiles.store import TileStore

    store = TileStore.open(tiles)
    counts = {split: len(store.rows(split)) for split in store.splits}
    used = sum(count for split, count in counts.items() if split in _TAKEN)
    left = {f"of split {text(split)}": count for split, count in counts.items() if split not in _TAKEN}
    return Account("tiles", store.spec.tiles, used, 0, left)


def weights_report(output: Path) -> str:
    """How much of `model.weights` a fit used, a line to print; empty where it started without."""
    path = output / "weights.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["summary"]) if path.exists() else ""


def taken(path: Path) -> str:
    """Read and delete a file; empty where there is none."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    delete_file(path)
    return text


def _check_early(settings: TrainSettings) -> None:
    """Find what is wrong with the settings before any worker is started."""
    from microseg_ray.fitting.setup import check_fit
    from microseg_ray.fitting.state import saved_state
    from microseg_ray.fitting.workers import Workers

    saved_state(settings, check_fit(settings, Workers(world=max(1, settings.workers))))


def run_fit(
    settings: S,
    workers: Workers,
    report: Report = lambda _: None,
    on_epoch: EpochHook = lambda _: None,
    *,
    fit: FitFunction[S],
) -> None:
    """One process's part of a fit: what each worker runs.

    Args:
        settings: The job's settings.
        workers: Which of the workers this is.
        report: Called with the progress (on rank 0 only).
        on_epoch: Called after each epoch, on every worker.
        fit: The loop over the epochs: `loop.fit`, or that of another job.
    """
    from microseg_ray.fitting.tracking import Tracker, trackers
    from microseg_ray.tiles.store import TileStore

    chief = workers.rank == 0
    output = Path(settings.output)
    progress = _Progress(output, settings.epochs, report)
    records: list[Tracker] = []
    if chief:
        records = trackers(settings, [item.name for item in TileStore.open(settings.store).spec.classes])

    def after_epoch(row: EpochReport) -> bool:
        for tracker in records:
            tracker.add(row)
        if chief:
            progress.epoch(asdict(row))
        on_epoch(row)
        return chief and progress.stops()

    stopped = fit(settings, workers, after_epoch, progress.step if chief else lambda *_: None)
    for tracker in records:
        tracker.close()
    if chief and stopped:
        write_text(output / END_FILE, stopped)


def local_device(settings: TrainSettings | PretrainSettings) -> str:
    """The device of a fit in this process."""
    import torch

    return "cuda" if settings.gpu and torch.cuda.is_available() else "cpu"


class _Progress:
    """Reports progress: to a callback, and to a file that the driver reads where the worker is another process."""

    def __init__(self, output: Path, epochs: int, report: Report) -> None:
        self._path = output / PROGRESS_FILE
        self._epochs = epochs
        self._report = report
        self._last: dict[str, Any] | None = None
        self._reported = 0.0
        self._asked = False

    def stops(self) -> bool:
        """Whether the callback, or the driver by its file, asked for the end."""
        return self._asked or (self._path.parent / STOP_FILE).exists()

    def step(self, epoch: int, step: int, steps: int) -> None:
        now = time.monotonic()
        if now - self._reported >= POLL_SECONDS or step == steps:
            self._reported = now
            self._write(TrainProgress(epoch, self._epochs, step, steps, self._last))

    def epoch(self, row: dict[str, Any]) -> None:
        self._last = row
        self._write(TrainProgress(row["epoch"], self._epochs, 1, 1, row))

    def _write(self, progress: TrainProgress) -> None:
        try:
            self._report(progress)
        except StopFit:
            self._asked = True
        # Read by the caller while the fit runs, and by nobody after it.
        write_text(self._path, json.dumps(asdict(progress)), durable=False)
