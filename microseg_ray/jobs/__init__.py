"""The jobs as the command line runs them: call the engine, show progress, print what came out, give the exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from microseg_ray.jobs.console import Bar, StartRay, progress_bar
from microseg_ray.jobs.data import info, simulate, tile
from microseg_ray.jobs.demonstration import demo
from microseg_ray.jobs.model import evaluate, train
from microseg_ray.jobs.run import measure, plan, postprocess, report, segment, verify

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["STEPS", "Bar", "progress_bar"]

STEPS: dict[str, Callable[[Any, StartRay], int]] = {
    "simulate": simulate,
    "tile": tile,
    "train": train,
    "evaluate": evaluate,
    "plan": plan,
    "segment": segment,
    "verify": verify,
    "postprocess": postprocess,
    "measure": measure,
    "report": report,
    "info": info,
    "demo": demo,
}
