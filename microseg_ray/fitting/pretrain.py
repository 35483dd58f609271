"""The pretrain job without Ray: squares are drawn, then a network learns to fill in what is hidden of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microseg_ray.accounts import ACCOUNTS_FILE, Account, write_accounts
from microseg_ray.errors import SettingsError
from microseg_ray.fence import Fence
from microseg_ray.files import absolute_text, delete_file, sole_writer, write_json
from microseg_ray.fitting.history import read_history
from microseg_ray.fitting.train import (
    END_FILE,
    PROGRESS_FILE,
    STOP_FILE,
    TrainProgress,
    local_device,
    run_fit,
    taken,
    weights_report,
)
from microseg_ray.outputs import Kind, claim, drop, settle
from microseg_ray.quarantine import FAILURES_FILE, Failure, write_failures
from microseg_ray.settings.model import OPTIONS
from microseg_ray.tiles.mapping import Mapper, in_process
from microseg_ray.tiles.unlabelled import Drawing, Drawn, draw_squares

if TYPE_CHECKING:
    from microseg_ray.settings import PretrainSettings

__all__ = ["Pretrained", "pretrain"]

OWNER = "pretrain"
ENTRIES = {
    "crops/tiles.zarr": Kind.STORE,
    "events": Kind.EVENTS,
    **dict.fromkeys(
        (
            *(
                "crops/tiles.parquet",
                "weights.safetensors",
                "pretraining.json",
                "state.pt",
                "state.before.pt",
                "settings.json",
            ),
            *("metrics.csv", "mlflow_run", "weights.json", PROGRESS_FILE, FAILURES_FILE, ACCOUNTS_FILE),
        ),
        Kind.FILE,
    ),
}
"""What a pre-training creates in its output."""

Report = Callable[[TrainProgress], None]
DrawReport = Callable[[str, int, int], None]
Launch = Callable[["PretrainSettings", Report], None]
MapperFactory = Callable[[DrawReport, int], Mapper]


@dataclass(frozen=True)
class Pretrained:
    """The result of the pretrain job.

    Attributes:
        weights: The file for `train --model.weights`.
        record: What pretraining.json holds.
        history: One mapping per epoch, as in metrics.csv.
        stopped: Why it ended before its last epoch; empty where it did not.
        started: How much of `model.weights` was used, a line to print; empty without.
        failures: Files that were set aside.
        accounts: Files: seen = used + set aside + not taken.
    """

    weights: Path
    record: dict[str, Any]
    history: list[dict[str, Any]]
    stopped: str
    started: str
    failures: tuple[Failure, ...]
    accounts: tuple[Account, ...]


def pretrain(
    settings: PretrainSettings,
    report: Report = lambda _: None,
    on_draw: DrawReport = lambda *_: None,
    launch: Launch | None = None,
    mapper: MapperFactory | None = None,
) -> Pretrained:
    """Pre-train a network on an archive, or resume.

    Args:
        settings: The job's settings; `workers: 0` runs in this process, without Ray.
        report: Called with the progress about once a second and after each epoch. If it raises `StopFit`, the fit ends after
            the running epoch.
        on_draw: Called with (stage, done, total) while squares are drawn.
        launch: Runs the fit on `workers` workers where that is above 0; `on_ray.fits` has one.
        mapper: Runs the drawing where `workers` is above 1; in this process where None.

    Returns:
        Where the weights are, and what was set aside.

    Raises:
        SettingsError: The output holds another fit, or settings do not suit the squares.
        InputError: Nothing in the archive can be used, or `model.weights` cannot be read.
        RunMismatchError: Something in the output is not ours.
    """
    if settings.workers and launch is None:
        raise SettingsError(
            f"pretrain.workers: {settings.workers} workers need Ray; call microseg_ray.on_ray.fits.pretrain, or give workers 0 "
            "to run in this process"
        )
    from microseg_ray.fitting.precision import settled

    settings = settled(_located(_as_train_reads(settings)), gpu=settings.gpu)
    with sole_writer(settings.output):
        fence = Fence.raised(settings.output)
        claim(settings.output, OWNER, ENTRIES)
        if settings.overwrite:
            drop(settings.output, OWNER)
        settings = settings.model_copy(update={"overwrite": False})
        # One worker would read no faster than this process.
        made = in_process(on_draw) if mapper is None or settings.workers <= 1 else mapper(on_draw, settings.workers)
        return _pretrain(settings, report, launch, _squares(settings, made, fence))


def _pretrain(settings: PretrainSettings, report: Report, launch: Launch | None, drawn: Drawn) -> Pretrained:
    from microseg_ray.fitting.pretraining.loop import check_pretraining, reconstruct
    from microseg_ray.fitting.pretraining.writing import RECORD_FILE, WEIGHTS_FILE
    from microseg_ray.fitting.state import saved_state
    from microseg_ray.fitting.workers import Workers

    output = Path(settings.output)
    for name in (STOP_FILE, END_FILE):
        delete_file(output / name)
    store = check_pretraining(settings, Workers(world=max(1, settings.workers)))
    # Refused before any worker is started, and before the settings of the other fit are replaced.
    saved_state(settings, store)
    write_json(output / "settings.json", settings.resolved())
    if settings.workers == 0 or launch is None:
        run_fit(settings, Workers(device=local_device(settings)), report, fit=reconstruct)
    else:
        launch(settings, report)
    stopped = taken(output / END_FILE)
    delete_file(output / STOP_FILE)
    settle(output, OWNER)
    return Pretrained(
        output / WEIGHTS_FILE,
        json.loads((output / RECORD_FILE).read_text(encoding="utf-8")),
        read_history(output),
        stopped,
        weights_report(output),
        drawn.failures,
        drawn.accounts,
    )


def _squares(settings: PretrainSettings, mapper: Mapper, fence: Fence) -> Drawn:
    drawing = Drawing(
        settings.archive,
        settings.crops,
        settings.tile,
        settings.seed,
        settings.scaling,
        settings.source,
        settings.fingerprint,
    )
    drawn = draw_squares(drawing, Path(settings.store), "pretrain.archive", mapper, fence)
    output = Path(settings.output)
    write_failures(output / FAILURES_FILE, drawn.failures)
    write_accounts(output / ACCOUNTS_FILE, drawn.accounts)
    return drawn


def _located(settings: PretrainSettings) -> PretrainSettings:
    """Absolute places: a worker may run in another folder."""
    output = str(Path(settings.output).absolute())
    return settings.model_copy(update={"archive": absolute_text(settings.archive), "output": output})


def _as_train_reads(settings: PretrainSettings) -> PretrainSettings:
    """With `input_scaling: imagenet` where it is open: what `train` takes where it is given weights."""
    model = settings.model
    if "input_scaling" not in OPTIONS[model.name] or model.input_scaling is not None:
        return settings
    return settings.model_copy(update={"model": model.model_copy(update={"input_scaling": "imagenet"})})
