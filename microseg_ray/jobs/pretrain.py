"""The pretrain job: prints how much of what was hidden is predicted, and how `train` takes the weights."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from rich.markup import escape

from microseg_ray.jobs.console import StartRay, console, progress_bar, quarantine

if TYPE_CHECKING:
    from microseg_ray.fitting.train import TrainProgress
    from microseg_ray.settings import PretrainSettings

__all__ = ["pretrain"]


def pretrain(settings: PretrainSettings, start: StartRay) -> int:
    """Pre-train and print where the weights are."""
    from microseg_ray.fitting import pretrain as pretraining

    with progress_bar() as bar:

        def report(progress: TrainProgress) -> None:
            last = progress.last
            detail = f"epoch {progress.epoch}" + ("" if last is None else f", loss {last['loss']:.4f}")
            bar.update("pre-training steps" if progress.steps > 1 else "epochs", *progress.counted, detail)

        if settings.workers:
            from microseg_ray.on_ray import fits

            done = fits.pretrain(settings, report, start, bar.update)
        else:
            done = pretraining.pretrain(settings, report, bar.update)
    record, first, last = done.record, done.history[0], done.history[-1]
    console.print(
        f"{last['epoch']} epochs on {record['squares']} squares of {record['micrographs']} micrographs; squared error of the "
        f"hidden pixels {float(first['loss']):.4f} at first, {float(last['loss']):.4f} at last (1: nothing is predicted)"
    )
    if done.started:
        console.print(escape(done.started))
    if done.stopped:
        console.print(f"ended early: {escape(done.stopped)}")
    model = record["model"]["name"]
    command = f"microseg train --model.name {model} --model.weights {shlex.quote(str(done.weights))}"
    console.print(f"weights: {escape(str(done.weights))}; to start from them: {escape(command)}", soft_wrap=True)
    return quarantine(list(done.failures), done.weights.parent / "failures.csv", done.accounts)
