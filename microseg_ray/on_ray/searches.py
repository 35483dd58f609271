"""The tune job: many short fits with settings from a search space, on Ray Tune; a trial calls `training.train`.

A trial's fit lives in OUTPUT/trials/ID like any fit, so a killed sweep goes on where each trial was. Selection sees the
split `val` alone; a test split in the tile store is never read.
"""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import MicrosegError, RunMismatchError, SettingsError
from microseg_ray.files import sole_writer, whole_folder, write_json
from microseg_ray.fitting.search.trials import Trial, Tuned, merged_settings
from microseg_ray.fitting.train import TrainProgress, train
from microseg_ray.on_ray.resources import Demand, require
from microseg_ray.outputs import Kind, claim, drop, is_checkpoint, is_record
from microseg_ray.settings import EvaluateSettings, TuneSettings, settings_from

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["tune"]

SWEEP_FILE = "sweep.json"
ENTRIES = {
    "trials": Kind.SCRATCH,
    "ray": Kind.SCRATCH,
    "best": Kind.CHECKPOINT,
    **dict.fromkeys((SWEEP_FILE, "trials.csv", "trials.parquet", "trials.html"), Kind.FILE),
}
HIGHER = {"mean_iou": True, "area_error": False}
# What may differ between two runs of one sweep: where and how fast it runs, and how long it goes on.
_NOT_DECIDING = ("tiles", "output", "ray", "concurrent", "cpus", "gpus", "threads", "overwrite", "max_failures")


Report = Callable[[int, int, str], None]


def tune(
    settings: TuneSettings, report: Report = lambda *_: None, start_ray: Callable[[], None] = lambda: None
) -> Tuned:
    """Search settings, or go on with an interrupted search.

    Args:
        settings: The job's settings.
        report: Told (finished trials, trials, what the last result was).
        start_ray: Called before Ray is used.

    Returns:
        All trials and the best checkpoint.

    Raises:
        SettingsError: The search names no setting of `train`, a value does not fit, or the tile store has no split val.
        RunMismatchError: The output holds another search, or another job works in it.
        MicrosegError: Every trial failed; the message has the first one's reason.
    """
    _check_early(settings)
    with sole_writer(settings.output):
        output = Path(settings.output).absolute()
        # An output of an earlier version has no manifest.
        claim(output, "tune", ENTRIES, proven=is_record(output / SWEEP_FILE, "identity", "settings"))
        if settings.overwrite:
            drop(output, "tune")
        _check_bound(settings, output)
        start_ray()
        # Only now: an attempt that Ray cannot run must not bind the output to its settings.
        require(Demand(1, settings.cpus, settings.gpus, "--cpus, --gpus"), settings.ray)
        _bind(settings, output)
        trials = _search(settings, output, report)
        done = [trial for trial in trials if trial.checkpoint is not None and trial.score is not None]
        if not done:
            raise MicrosegError(f"tune: no trial finished an epoch; the first one's reason: {trials[0].reason}")
        _keep(done[0], output / "best")
        return Tuned(tuple(trials), output / "best", settings.objective)


def _check_early(settings: TuneSettings) -> None:
    """Find what is wrong with the space and the store before Ray is started."""
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


def _check_bound(settings: TuneSettings, output: Path) -> None:
    """Refuse to mix two searches in one folder; a search in which no epoch was finished binds nothing.

    Raises:
        RunMismatchError: The output holds epochs of another search.
    """
    path = output / SWEEP_FILE
    if not path.exists() or json.loads(path.read_text(encoding="utf-8"))["identity"] == _identity(settings):
        return
    if any((output / "trials").glob("**/metrics.csv")):
        raise RunMismatchError(
            f"tune.output: {output} holds a search with other settings or tiles; give another output, or --overwrite"
        )
    # Ray Tune would go on with the trials that it planned for the other settings.
    drop(output, "tune", ("ray", SWEEP_FILE))


def _bind(settings: TuneSettings, output: Path) -> None:
    """Write down which search the output holds."""
    write_json(output / SWEEP_FILE, {"identity": _identity(settings), "settings": settings.resolved()})


def _trial(config: dict[str, Any]) -> None:
    """What Ray Tune runs: one fit that tells the objective after each epoch."""
    import tempfile

    from ray import tune as ray_tune

    settings = settings_from(TuneSettings, config["settings"])
    name = str(ray_tune.get_context().get_trial_id())
    folder = Path(settings.output) / "trials" / name
    values = config["values"]
    given = ray_tune.get_checkpoint() if settings.scheduler == "pbt" else None
    if settings.scheduler == "pbt":
        # Population based training changes a trial's settings on the way: each set of values is a fit of its own, which
        # starts from the weights of the trial that it copies.
        folder /= hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:12]
    chosen = merged_settings(settings, values, str(folder)).model_copy(
        update={"threads": settings.threads or max(1, int(settings.cpus)), "gpu": settings.gpus > 0}
    )
    with tempfile.TemporaryDirectory() as temporary:
        if given is not None and not (folder / "state.pt").exists():
            given.to_directory(temporary)
            chosen = chosen.model_copy(update={"init_from": temporary})
        teller = _Teller(settings, folder)
        teller.tell_known()
        train(chosen, teller)


class _Teller:
    """Tells Ray Tune the objective after each epoch; the area error only where there is a new best checkpoint."""

    def __init__(self, settings: TuneSettings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._told = 0
        self._best = float("-inf")
        self._area: float | None = None

    def tell_known(self) -> None:
        """Of a fit that was done before, tell the last epoch: a finished trial is not computed again."""
        history = _history(self._folder)
        for row in history[:-1]:
            self._best = max(self._best, _score(row))
            self._told = int(row["epoch"])
        if history:
            self._tell(history[-1])

    def __call__(self, progress: TrainProgress) -> None:
        row = progress.last
        if row is not None and int(row["epoch"]) > self._told:
            self._tell(row)

    def _tell(self, row: Mapping[str, Any]) -> None:
        import tempfile

        from ray import tune as ray_tune

        self._told = int(row["epoch"])
        improved = _score(row) > self._best
        self._best = max(self._best, _score(row))
        metrics = {"mean_iou": self._best, "epoch": self._told, "folder": str(self._folder)}
        if self._settings.objective == "area_error":
            if improved or self._area is None:
                self._area = _area_error(self._settings, self._folder)
            metrics["area_error"] = self._area
        if self._settings.scheduler != "pbt":
            ray_tune.report(metrics)
            return
        with tempfile.TemporaryDirectory() as temporary:
            shutil.copy(self._folder / "state.pt", temporary)
            ray_tune.report(metrics, checkpoint=ray_tune.Checkpoint.from_directory(temporary))


def _history(folder: Path) -> list[dict[str, Any]]:
    """The epochs that a fit has behind it."""
    path = folder / "metrics.csv"
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def _score(row: Mapping[str, Any]) -> float:
    value = row["val_mean_iou"]
    return -1.0 if value in {None, ""} else float(value)


def _area_error(settings: TuneSettings, folder: Path) -> float:
    """Mean absolute error of the area fractions on the whole micrographs of split val."""
    from microseg_ray.evaluation.job import evaluate
    from microseg_ray.tiles.store import TileStore

    classes = [item.model_dump() for item in TileStore.open(settings.tiles).spec.classes]
    chosen = settings_from(
        EvaluateSettings,
        {
            # How training splits were audited has no part in judging.
            **settings.data.model_dump(exclude={"audit"}),
            "checkpoint": str(folder / "best"),
            "split": "val",
            "output": str(folder / "areas"),
            "classes": classes,
            "figures": False,
            "probabilities": False,
            "threads": settings.threads,
            "precision": "fp32" if settings.precision == "fp32" else "bf16",
        },
    )
    return float(evaluate(chosen).areas.mean_absolute_error)


def _search(settings: TuneSettings, output: Path, report: Report) -> list[Trial]:
    from ray import tune as ray_tune

    storage, name = output / "ray", "sweep"
    absolute = settings.model_copy(update={"output": str(output), "tiles": str(Path(settings.tiles).absolute())})
    trainable = ray_tune.with_resources(_trial, {"cpu": settings.cpus, "gpu": settings.gpus})
    space = {"settings": absolute.resolved(), "values": _space(settings)}
    known = storage / name
    if ray_tune.Tuner.can_restore(str(known)):
        tuner = ray_tune.Tuner.restore(
            str(known), trainable=trainable, param_space=space, resume_unfinished=True, restart_errored=True
        )
    else:
        tuner = ray_tune.Tuner(
            trainable,
            param_space=space,
            tune_config=ray_tune.TuneConfig(
                metric=settings.objective,
                mode="max" if HIGHER[settings.objective] else "min",
                # Ray Tune would try the whole grid so many times.
                num_samples=1 if settings.algorithm == "grid" else settings.trials,
                search_alg=_algorithm(settings),
                scheduler=_scheduler(settings),
                max_concurrent_trials=settings.concurrent,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=ray_tune.RunConfig(
                name=name,
                storage_path=str(storage),
                verbose=0,
                failure_config=ray_tune.FailureConfig(max_failures=settings.max_failures),
                callbacks=[_watcher(settings, report)],
            ),
        )
    with _without_loggers(), warnings.catch_warnings():
        # Actors that could be given other settings are of no use to fits that never change theirs.
        warnings.filterwarnings("ignore", message="Consider boosting PBT")
        results = tuner.fit()
    trials = [_outcome(result, settings) for result in (results[place] for place in range(len(results)))]
    sign = -1.0 if HIGHER[settings.objective] else 1.0
    return sorted(trials, key=lambda trial: (trial.score is None, sign * (trial.score or 0.0), trial.name))


@contextmanager
def _without_loggers() -> Iterator[None]:
    """Tune's own CSV, JSON and TensorBoard files stay unwritten, and open: each fit has its own tables."""
    name = "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name)
        else:
            os.environ[name] = before


def _space(settings: TuneSettings) -> dict[str, Any]:
    from ray import tune as ray_tune

    space: dict[str, Any] = {}
    for key, each in settings.search.items():
        if each.values is not None:
            space[key] = (ray_tune.grid_search if settings.algorithm == "grid" else ray_tune.choice)(list(each.values))
            continue
        low, high = float(each.low or 0), float(each.high or 0)
        if each.integer:
            space[key] = (ray_tune.lograndint if each.log else ray_tune.randint)(int(low), int(high) + 1)
        else:
            space[key] = (ray_tune.loguniform if each.log else ray_tune.uniform)(low, high)
    return space


def _algorithm(settings: TuneSettings) -> Any:
    if settings.algorithm in {"random", "grid"}:
        from ray.tune.search.basic_variant import BasicVariantGenerator

        return BasicVariantGenerator(random_state=settings.seed, max_concurrent=settings.concurrent)
    try:
        import optuna
    except ModuleNotFoundError as error:
        raise SettingsError(
            f"tune.algorithm: {settings.algorithm} needs Optuna; pip install 'microseg_ray[tune]', or use random"
        ) from error
    from ray.tune.search.optuna import OptunaSearch

    samplers = {"tpe": optuna.samplers.TPESampler, "cmaes": optuna.samplers.CmaEsSampler}
    return OptunaSearch(sampler=samplers[settings.algorithm](seed=settings.seed))


def _scheduler(settings: TuneSettings) -> Any:
    from ray.tune import schedulers

    match settings.scheduler:
        case "none":
            return None
        case "asha":
            return schedulers.ASHAScheduler(
                time_attr="epoch",
                max_t=settings.epochs,
                grace_period=min(settings.grace, settings.epochs),
                reduction_factor=settings.reduction,
            )
        case "pbt":
            space = {key: value for key, value in _space(settings).items() if not isinstance(value, dict)}
            return schedulers.PopulationBasedTraining(
                time_attr="epoch", perturbation_interval=settings.grace, hyperparam_mutations={"values": space}
            )


def _watcher(settings: TuneSettings, report: Report) -> Any:
    from ray.tune import Callback

    class Watcher(Callback):
        """Tells how many trials are finished and what the last epoch gave."""

        finished = 0

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
        ) -> None:
            del iteration, trials
            score = result.get(settings.objective)
            report(
                self.finished,
                _total(settings),
                f"{trial.trial_id} epoch {result.get('epoch')}: {settings.objective} {score:.4f}",
            )

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            del iteration, trials
            self.finished += 1
            report(self.finished, _total(settings), f"{trial.trial_id} finished")

    return Watcher()


def _total(settings: TuneSettings) -> int:
    if settings.algorithm != "grid":
        return settings.trials
    size = 1
    for space in settings.search.values():
        size *= len(space.values or ())
    return size


def _outcome(result: Any, settings: TuneSettings) -> Trial:
    metrics = result.metrics or {}
    values = dict((result.config or {}).get("values", {}))
    epochs = int(metrics.get("epoch", 0))
    folder = Path(str(metrics.get("folder", "")))
    best = folder / "best"
    score = metrics.get(settings.objective)
    failed = result.error is not None
    reason = " ".join(str(result.error).split())[-300:] if failed else ""
    return Trial(
        name=str(metrics.get("trial_id", folder.name)),
        values=values,
        score=None if score is None else float(score),
        epochs=epochs,
        seconds=float(metrics.get("time_total_s", 0.0)),
        state="failed" if failed else "done" if epochs >= settings.epochs else "stopped",
        checkpoint=best if metrics and best.is_dir() else None,
        reason=reason,
    )


def _keep(trial: Trial, target: Path) -> None:
    """The best trial's checkpoint as OUTPUT/best, whole or not at all."""
    with whole_folder(target, is_checkpoint) as partial:
        shutil.copytree(str(trial.checkpoint), partial)
