"""The tune job: prints the trials, the best first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from microseg_ray.jobs.console import DONE, StartRay, console, print_accounts, progress_bar, shown

if TYPE_CHECKING:
    from microseg_ray.settings import TuneSettings

__all__ = ["tune"]

SHOWN_TRIALS = 20


def tune(settings: TuneSettings, start: StartRay) -> int:
    """Search settings and print the trials, the best first."""
    from microseg_ray.on_ray import searches as tuning
    from microseg_ray.report.sweep import write_sweep

    with progress_bar() as bar:
        tuned = tuning.tune(settings, lambda done, total, detail: bar.update("trials", done, total, detail), start)
    page = write_sweep(tuned, Path(settings.output).absolute())
    names = sorted({name for trial in tuned.trials for name in trial.values})
    table = Table("trial", *names, tuned.objective, "epochs", "state")
    for trial in tuned.trials[:SHOWN_TRIALS]:
        values = (_text_of(trial.values.get(name)) for name in names)
        table.add_row(trial.name, *values, shown(trial.score), str(trial.epochs), trial.state)
    console.print(table)
    for trial in tuned.trials:
        if trial.reason:
            console.print(f"[yellow]{escape(trial.name)} failed:[/] {escape(trial.reason)}")
    states = [trial.state for trial in tuned.trials]
    console.print(
        f"{len(states)} trials: {states.count('done')} done, {states.count('stopped')} stopped early, "
        f"{states.count('failed')} failed; best {tuned.objective} {shown(tuned.trials[0].score)}"
    )
    console.print(f"checkpoint: {escape(str(tuned.best))}; page: {escape(str(page))}")
    print_accounts(tuned.accounts)
    return DONE


def _text_of(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
