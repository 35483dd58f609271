"""The tune job: many short fits with settings from a search space, on Ray Tune; a trial calls `fitting.train.train`.

A trial's fit lives in OUTPUT/trials/ID like any fit, so a killed sweep goes on where each trial was. Selection sees the
split `val` alone; a test split in the tile store is never read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from microseg_ray.accounts import ACCOUNTS_FILE, write_accounts
from microseg_ray.errors import MicrosegError, SettingsError
from microseg_ray.files import absolute_text, sole_writer
from microseg_ray.fitting.precision import settled
from microseg_ray.fitting.search.binding import ENTRIES, SEARCH_FILE, bind_search, check_bound, check_search, keep_best
from microseg_ray.fitting.search.objective import HIGHER_IS_BETTER, Objective
from microseg_ray.fitting.search.trials import Trial, Tuned, merged_settings, number_of_trials, ranked, trial_of
from microseg_ray.fitting.train import TrainProgress, tile_account, train
from microseg_ray.on_ray.resources import Demand, require
from microseg_ray.outputs import claim, drop
from microseg_ray.recognition import is_record
from microseg_ray.settings import TuneSettings, settings_from

__all__ = ["tune"]

Report = Callable[[int, int, str], None]


def tune(
    settings: TuneSettings, report: Report = lambda *_: None, start_ray: Callable[[], None] = lambda: None
) -> Tuned:
    """Search settings, or resume an interrupted search.

    Args:
        settings: The job's settings.
        report: Called with (finished trials, trials, a line about the last result).
        start_ray: Called before Ray is used.

    Returns:
        All trials and the best checkpoint.

    Raises:
        SettingsError: The search names no setting of `train`, a value does not fit, or the tile store has no split val.
        RunMismatchError: The output holds another search, or another job works in it.
        MicrosegError: Every trial failed; the message has the first one's reason.
    """
    settings = settled(settings, gpu=settings.gpus > 0)
    if settings.ray.labels:
        raise SettingsError(
            "tune.ray.labels: Ray Tune does not place trials by labels; give the nodes a resource, and name it in ray.resources"
        )
    check_search(settings)
    with sole_writer(settings.output):
        output = Path(settings.output).absolute()
        # An output of an earlier version has no manifest.
        claim(output, "tune", ENTRIES, proven=is_record(output / SEARCH_FILE, "identity", "settings"))
        if settings.overwrite:
            drop(output, "tune")
        check_bound(settings, output)
        start_ray()
        # Only now: an attempt that Ray cannot run must not bind the output to its settings.
        demand = Demand.of(1, settings.ray, cpus=settings.cpus, gpus=settings.gpus, options="--cpus, --gpus")
        require(demand, settings.ray)
        bind_search(settings, output)
        trials = _search(settings, output, report)
        done = [trial for trial in trials if trial.checkpoint is not None and trial.score is not None]
        if not done:
            raise MicrosegError(f"tune: no trial finished an epoch; the first one's reason: {trials[0].reason}")
        keep_best(done[0], output / "best")
        accounts = (tile_account(settings.tiles),)
        write_accounts(output / ACCOUNTS_FILE, accounts)
        return Tuned(tuple(trials), output / "best", settings.objective, accounts)


def _trial(config: dict[str, Any]) -> None:
    """One trial, run by Ray Tune: a fit that reports the objective after each epoch."""
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
        train(chosen, _Reporter(settings, folder))


class _Reporter:
    """Reports the objective to Ray Tune after each epoch."""

    def __init__(self, settings: TuneSettings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self._objective = Objective(settings, folder)
        self._report(self._objective.resumed())

    def __call__(self, progress: TrainProgress) -> None:
        self._report(self._objective.after(progress.last))

    def _report(self, metrics: dict[str, Any] | None) -> None:
        import tempfile

        from ray import tune as ray_tune

        if metrics is None:
            return
        if self._settings.scheduler != "pbt":
            ray_tune.report(metrics)
            return
        with tempfile.TemporaryDirectory() as temporary:
            shutil.copy(self._folder / "state.pt", temporary)
            ray_tune.report(metrics, checkpoint=ray_tune.Checkpoint.from_directory(temporary))


def _search(settings: TuneSettings, output: Path, report: Report) -> list[Trial]:
    from ray import tune as ray_tune

    storage, name = output / "ray", "sweep"
    absolute = settings.model_copy(update={"output": str(output), "tiles": absolute_text(settings.tiles)})
    trainable = ray_tune.with_resources(_trial, {"cpu": settings.cpus, "gpu": settings.gpus, **settings.ray.resources})
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
                mode="max" if HIGHER_IS_BETTER[settings.objective] else "min",
                # A grid holds each combination once already.
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
        # Reusing actors does not help: a fit never changes its settings.
        warnings.filterwarnings("ignore", message="Consider boosting PBT")
        results = tuner.fit()
    trials = [
        trial_of(result.metrics or {}, result.config or {}, result.error, settings)
        for result in (results[place] for place in range(len(results)))
    ]
    return ranked(trials, higher_is_better=HIGHER_IS_BETTER[settings.objective])


@contextmanager
def _without_loggers() -> Iterator[None]:
    """Disable the CSV, JSON and TensorBoard loggers of Ray Tune: each fit writes tables of its own."""
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
        """Reports the number of finished trials and the last epoch."""

        finished = 0

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **_: Any
        ) -> None:
            del iteration, trials
            score = result.get(settings.objective)
            report(
                self.finished,
                number_of_trials(settings),
                f"{trial.trial_id} epoch {result.get('epoch')}: {settings.objective} {score:.4f}",
            )

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            del iteration, trials
            self.finished += 1
            report(self.finished, number_of_trials(settings), f"{trial.trial_id} finished")

    return Watcher()
