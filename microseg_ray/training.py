"""The train job: `fitting.fit` on Ray Train workers, or in this process.

The state of a fit lives in OUTPUT (docs/decisions/0002): a worker or a driver that dies is started again and goes on from
there, whoever starts it.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from microseg_ray.archive.run import sole_writer
from microseg_ray.errors import MicrosegError
from microseg_ray.figures import plot_training
from microseg_ray.settings import TrainSettings, settings_from
from microseg_ray.workers import worker_environment

__all__ = ["StopFit", "TrainProgress", "Trained", "train", "train_loop_per_worker"]

PROGRESS_FILE = ".progress.json"
STOP_FILE = ".stop"
END_FILE = ".end"
POLL_SECONDS = 1.0


@dataclass(frozen=True)
class TrainProgress:
    """Where a fit stands, for a progress bar.

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


@dataclass(frozen=True)
class Trained:
    """What the train job came to.

    Attributes:
        best: Checkpoint of the best epoch.
        last: Checkpoint of the last epoch.
        history: One mapping per epoch, as in metrics.csv.
        stopped: Why the fit ended before its last epoch; empty where it did not.
        weights: What became of `model.weights`, a line to print; weights.json has all names. Empty without.
    """

    best: Path
    last: Path
    history: list[dict[str, Any]]
    stopped: str = ""
    weights: str = ""


class StopFit(Exception):  # noqa: N818 - it asks for an end, it is no error
    """Raised by a `report`: end the fit after the running epoch; its state is kept, and the same settings go on with it."""


Report = Callable[[TrainProgress], None]


def train(
    settings: TrainSettings, report: Report = lambda _: None, start_ray: Callable[[], None] = lambda: None
) -> Trained:
    """Train a model on a tile store, or go on with an interrupted fit.

    Args:
        settings: The job's settings; `workers: 0` runs in this process, without Ray.
        report: Told where the fit stands, about once a second and after each epoch. It may raise `StopFit`: a scheduler's
            way to end a fit early. With Ray workers the fit ends after the epoch in which they learn of it.
        start_ray: Called before Ray is used.

    Returns:
        The checkpoints and the history.

    Raises:
        SettingsError: The output holds another fit, or settings do not suit the tile store.
        StoreError: The tile store cannot be read.
        RunMismatchError: Another job is training into the same output.
        MicrosegError: A worker failed more often than `max_failures`.
    """
    _check_early(settings)
    with sole_writer(settings.output):
        return _train(settings, report, start_ray)


def _train(settings: TrainSettings, report: Report, start_ray: Callable[[], None]) -> Trained:
    output = Path(settings.output).absolute()
    if settings.overwrite:
        for name in ("best", "last", "events", "epochs"):
            shutil.rmtree(output / name, ignore_errors=True)
        for name in ("state.pt", "metrics.csv", "mlflow_run", "weights.json", "curves.png"):
            (output / name).unlink(missing_ok=True)
    for name in (STOP_FILE, END_FILE):
        (output / name).unlink(missing_ok=True)
    # From here on a restarted worker must resume, not start afresh again.
    settings = settings.model_copy(
        update={"overwrite": False, "output": str(output), "tiles": str(Path(settings.tiles).absolute())}
    )
    (output / "settings.json").write_text(json.dumps(settings.resolved(), indent=2) + "\n", encoding="utf-8")
    if settings.workers == 0:
        train_loop_per_worker({"settings": settings.resolved(), "ray": False}, report)
    else:
        start_ray()
        with _watched(output, report):
            _on_ray_train(settings)
    stopped = _taken(output / END_FILE)
    (output / STOP_FILE).unlink(missing_ok=True)
    plot_training(output / "curves.png", output / "metrics.csv")
    return Trained(output / "best", output / "last", _history(output), stopped, _weights_report(output))


def _weights_report(output: Path) -> str:
    path = output / "weights.json"
    return str(json.loads(path.read_text(encoding="utf-8"))["summary"]) if path.exists() else ""


def _taken(path: Path) -> str:
    """The text of a file that is no longer needed."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    path.unlink(missing_ok=True)
    return text


def _check_early(settings: TrainSettings) -> None:
    """Find what is wrong with the settings before any worker is started."""
    from microseg_ray.fitting import Crew, check_fit, saved_state

    saved_state(settings, check_fit(settings, Crew(world=max(1, settings.workers))))


def train_loop_per_worker(config: dict[str, Any], report: Report = lambda _: None) -> None:
    """What each Ray Train worker runs; without Ray, what this process runs.

    Args:
        config: `settings`: resolved `TrainSettings`; `ray`: whether Ray Train runs this.
        report: Told where the fit stands (in this process only).
    """
    import torch

    from microseg_ray.fitting import Crew, EpochReport, fit
    from microseg_ray.fitting.tracking import Tracker, scalars, trackers
    from microseg_ray.stores import TileStore

    settings = settings_from(TrainSettings, config["settings"])
    crew = Crew(device="cuda" if settings.gpu and torch.cuda.is_available() else "cpu")
    if config["ray"]:
        import ray.train

        context = ray.train.get_context()
        crew = Crew(context.get_world_rank(), context.get_world_size(), str(ray.train.torch.get_device()))
    chief = crew.rank == 0
    output = Path(settings.output)
    teller = _Teller(output, settings.epochs, report)
    told: list[Tracker] = []
    if chief:
        told = trackers(settings, [item.name for item in TileStore.open(settings.tiles).spec.classes])

    def on_epoch(row: EpochReport) -> bool:
        for tracker in told:
            tracker.add(row)
        if chief:
            teller.epoch(asdict(row))
        if config["ray"]:
            import ray.train

            ray.train.report({**scalars(row), "epoch": row.epoch})
        return chief and teller.stops()

    stopped = fit(settings, crew, on_epoch, teller.step if chief else lambda *_: None)
    for tracker in told:
        tracker.close()
    if chief and stopped:
        (output / END_FILE).write_text(stopped, encoding="utf-8")


class _Teller:
    """Tells progress: to a callback here, and to a file that the driver reads when the worker is elsewhere."""

    def __init__(self, output: Path, epochs: int, report: Report) -> None:
        self._path = output / PROGRESS_FILE
        self._epochs = epochs
        self._report = report
        self._last: dict[str, Any] | None = None
        self._told = 0.0
        self._asked = False

    def stops(self) -> bool:
        """Whether someone asked for the end, here or where the driver is."""
        return self._asked or (self._path.parent / STOP_FILE).exists()

    def step(self, epoch: int, step: int, steps: int) -> None:
        now = time.monotonic()
        if now - self._told >= POLL_SECONDS or step == steps:
            self._told = now
            self._tell(TrainProgress(epoch, self._epochs, step, steps, self._last))

    def epoch(self, row: dict[str, Any]) -> None:
        self._last = row
        self._tell(TrainProgress(row["epoch"], self._epochs, 1, 1, row))

    def _tell(self, progress: TrainProgress) -> None:
        try:
            self._report(progress)
        except StopFit:
            self._asked = True
        partial = self._path.with_suffix(".partial")
        partial.write_text(json.dumps(asdict(progress)), encoding="utf-8")
        partial.replace(self._path)


def _on_ray_train(settings: TrainSettings) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    cpus = float(ray.cluster_resources().get("CPU", 1.0))
    threads = settings.threads or max(1, int(cpus / settings.workers))
    share = max(0.1, min(float(threads), cpus / settings.workers))
    trainer = TorchTrainer(
        train_loop_per_worker,
        train_loop_config={"settings": {**settings.resolved(), "threads": threads}, "ray": True},
        scaling_config=ScalingConfig(
            num_workers=settings.workers,
            use_gpu=settings.gpu,
            resources_per_worker={"CPU": share, **({"GPU": 1} if settings.gpu else {})},
        ),
        # A new name each time: the fit's own state decides what is resumed, not Ray's snapshot of an older run.
        run_config=RunConfig(  # type: ignore[call-arg]
            name=f"fit-{uuid.uuid4().hex[:12]}",
            storage_path=str(Path(settings.output) / "ray"),
            # Train V2 takes it; the type checker sees the older RunConfig.
            worker_runtime_env={"env_vars": worker_environment(threads)},
            failure_config=FailureConfig(max_failures=settings.max_failures),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise MicrosegError(
            f"train: workers failed more than max_failures ({settings.max_failures}) times: {_cause(error)}"
        ) from error
    finally:
        shutil.rmtree(Path(settings.output) / "ray", ignore_errors=True)


def _cause(error: BaseException) -> str:
    """The last line that says what happened; Ray wraps it in pages of traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextmanager
def _watched(output: Path, report: Report) -> Iterator[None]:
    """Pass on what the chief worker writes about its progress while Ray Train blocks."""
    stop = threading.Event()
    path = output / PROGRESS_FILE
    path.unlink(missing_ok=True)

    def watch() -> None:
        seen = ""
        while True:
            ended = stop.wait(POLL_SECONDS)
            try:
                text = path.read_text(encoding="utf-8")
            except OSError:
                text = ""
            if text and text != seen:
                seen = text
                try:
                    report(TrainProgress(**json.loads(text)))
                except StopFit:
                    (output / STOP_FILE).touch()
            if ended:
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        path.unlink(missing_ok=True)


def _history(output: Path) -> list[dict[str, Any]]:
    import csv

    with (output / "metrics.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))
