"""The jobs as the command line runs them: call the engine, show progress, print what came out, give the exit code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from microseg_ray.jobs.annotate import annotate
from microseg_ray.jobs.catalog import audit, catalog
from microseg_ray.jobs.classify import classifier, classify
from microseg_ray.jobs.console import Bar, StartRay, progress_bar
from microseg_ray.jobs.data import info, simulate, tile
from microseg_ray.jobs.demo import demo
from microseg_ray.jobs.divide import divide
from microseg_ray.jobs.evaluate import evaluate
from microseg_ray.jobs.export import export
from microseg_ray.jobs.model import train
from microseg_ray.jobs.probabilities import probabilities
from microseg_ray.jobs.run import measure, plan, postprocess, report, segment, verify
from microseg_ray.jobs.threshold import threshold
from microseg_ray.jobs.tune import tune

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["STEPS", "Bar", "progress_bar"]

STEPS: dict[str, Callable[[Any, StartRay], int]] = {
    "simulate": simulate,
    "annotate": annotate,
    "catalog": catalog,
    "audit": audit,
    "divide": divide,
    "tile": tile,
    "train": train,
    "tune": tune,
    "classifier": classifier,
    "classify": classify,
    "evaluate": evaluate,
    "plan": plan,
    "segment": segment,
    "verify": verify,
    "postprocess": postprocess,
    "probabilities": probabilities,
    "threshold": threshold,
    "measure": measure,
    "report": report,
    "export": export,
    "info": info,
    "demo": demo,
}
