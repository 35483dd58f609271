"""The train job on Ray Train workers."""

from __future__ import annotations

import json
import threading
import uuid
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import MicrosegError
from microseg_ray.fence import Fence
from microseg_ray.files import delete_empty_folder, delete_file, delete_folder
from microseg_ray.fitting import train as without_ray
from microseg_ray.fitting.pretrain import pretrain as pretrain_without_ray
from microseg_ray.fitting.train import POLL_SECONDS, PROGRESS_FILE, STOP_FILE, StopFit, TrainProgress, run_fit
from microseg_ray.on_ray.environment import worker_environment
from microseg_ray.on_ray.resources import Demand, require, waiting
from microseg_ray.on_ray.rows import dataset_mapper
from microseg_ray.settings import PretrainSettings, TrainSettings, settings_from

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from microseg_ray.fitting.history import EpochReport
    from microseg_ray.fitting.pretrain import DrawReport, Pretrained
    from microseg_ray.fitting.train import Report, Trained

__all__ = ["launch_fit", "pretrain", "train", "train_loop_per_worker"]


def train(
    settings: TrainSettings, report: Report = lambda _: None, start_ray: Callable[[], None] = lambda: None
) -> Trained:
    """`fitting.train.train` on Ray Train; `workers: 0` trains in this process, without Ray.

    Args:
        settings: The job's settings.
        report: Called with the progress of the fit; it may raise `StopFit`.
        start_ray: Called before Ray is used.
    """
    return without_ray.train(settings, report, partial(launch_fit, start_ray))


def pretrain(
    settings: PretrainSettings,
    report: Report = lambda _: None,
    start_ray: Callable[[], None] = lambda: None,
    on_draw: DrawReport = lambda *_: None,
) -> Pretrained:
    """`fitting.pretrain.pretrain` on Ray Train and Ray Data; `workers: 0` runs in this process, without Ray.

    Args:
        settings: The job's settings.
        report: Called with the progress of the fit; it may raise `StopFit`.
        start_ray: Called before Ray is used.
        on_draw: Called with (stage, done, total) while squares are drawn.
    """
    mapper = partial(dataset_mapper, start_ray, settings.ray)
    return pretrain_without_ray(settings, report, on_draw, partial(launch_fit, start_ray), mapper)


def launch_fit(start_ray: Callable[[], None], settings: TrainSettings | PretrainSettings, report: Report) -> None:
    """Run a fit on `settings.workers` Ray Train workers and pass on its progress.

    Raises:
        MicrosegError: A worker failed more often than `max_failures`.
    """
    start_ray()
    options = "--workers, --gpu" if settings.gpu else "--workers"
    require(Demand.of(settings.workers, settings.ray, gpus=float(settings.gpu), options=options), settings.ray)
    with waiting(f"the first step of {settings.workers} training workers") as started:

        def on_progress(progress: TrainProgress) -> None:
            started()
            report(progress)

        with _watched(Path(settings.output), on_progress):
            # The caller holds the lock of the output, and has ended the epoch of an earlier job.
            _fit(settings, Fence.raised(settings.output))


def train_loop_per_worker(config: dict[str, Any]) -> None:
    """What each Ray Train worker runs.

    Args:
        config: `job`: `train` or `pretrain`; `settings`: its resolved settings; `fence`: its epoch.
    """
    import ray.train

    from microseg_ray.fitting.tracking import scalars
    from microseg_ray.fitting.workers import Workers

    context = ray.train.get_context()
    workers = Workers(
        context.get_world_rank(), context.get_world_size(), str(ray.train.torch.get_device()), config["fence"]
    )

    def on_epoch(row: EpochReport) -> None:
        ray.train.report({**scalars(row), "epoch": row.epoch})

    if config["job"] == PretrainSettings.job:
        from microseg_ray.fitting.pretraining.loop import reconstruct

        run_fit(settings_from(PretrainSettings, config["settings"]), workers, on_epoch=on_epoch, fit=reconstruct)
    else:
        from microseg_ray.fitting.loop import fit

        run_fit(settings_from(TrainSettings, config["settings"]), workers, on_epoch=on_epoch, fit=fit)


def _fit(settings: TrainSettings | PretrainSettings, fence: Fence) -> None:
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    cpus = float(ray.cluster_resources().get("CPU", 1.0))
    threads = settings.threads or max(1, int(cpus / settings.workers))
    share = max(0.1, min(float(threads), cpus / settings.workers))
    name, storage = f"fit-{uuid.uuid4().hex[:12]}", Path(settings.output) / "ray"
    trainer = TorchTrainer(
        train_loop_per_worker,
        train_loop_config={
            "job": settings.job,
            "settings": {**settings.resolved(), "threads": threads},
            "fence": fence,
        },
        scaling_config=ScalingConfig(  # type: ignore[call-arg]
            num_workers=settings.workers,
            use_gpu=settings.gpu,
            resources_per_worker={"CPU": share, **({"GPU": 1} if settings.gpu else {}), **settings.ray.resources},
            # Train V2 takes it; the type checker sees the older ScalingConfig.
            label_selector=dict(settings.ray.labels) or None,
        ),
        # A new name each time: the fit's own state decides what is resumed, not Ray's snapshot of an older run.
        run_config=RunConfig(  # type: ignore[call-arg]
            name=name,
            storage_path=str(storage),
            # Train V2 takes it; the type checker sees the older RunConfig.
            worker_runtime_env={"env_vars": worker_environment(threads)},
            failure_config=FailureConfig(max_failures=settings.max_failures),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        raise MicrosegError(
            f"{settings.job}: workers failed more than max_failures ({settings.max_failures}) times: {_cause(error)}"
        ) from error
    finally:
        delete_folder(storage / name)
        delete_empty_folder(storage)


def _cause(error: BaseException) -> str:
    """The last line that says what happened; Ray wraps it in pages of traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextmanager
def _watched(output: Path, report: Report) -> Iterator[None]:
    """Pass on what the chief worker writes about its progress while Ray Train blocks."""
    stop = threading.Event()
    path = output / PROGRESS_FILE
    delete_file(path)

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
        delete_file(path)
