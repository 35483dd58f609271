"""The registry of the jobs: their names and summaries, in the order of the help, and the settings class of each.

A job NAME has its settings in `settings/NAME.py`, its step in `jobs/NAME.py` and its script in `jobs/NAME.py` of the
repository, with `_` in place of `-`. A module is imported when it is asked for, so that a job loads no other job's code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from microseg_ray.settings.base import JobSettings

__all__ = ["JOBS", "JobTable", "module_name"]

_SUMMARIES = {
    "simulate": "micrographs with exact masks",
    "annotate": "what people drew, in any tool's format -> a mask per micrograph",
    "catalog": "archive -> a table of micrograph, mask, group, split, pixel size, to edit and feed back",
    "audit": "micrographs that are equal, mirrored, rotated or nearly equal in different splits; exit 1 if there are any",
    "divide": "few large micrographs -> regions of them for train, val and test, and their table",
    "tile": "archive of micrographs and masks -> tile store",
    "recipe": "tile store -> settings of `train` that suit it, as a config with a reason for each value",
    "pretrain": "archive without labels -> weights that `train` starts from",
    "train": "tile store -> checkpoint",
    "tune": "tile store -> the best of many trials",
    "classifier": "a folder of micrographs per class -> a checkpoint that classifies whole micrographs",
    "classify": "archive + classifier -> the class of each micrograph with its probability",
    "evaluate": "masks against predicted masks, or against what a checkpoint predicts",
    "plan": "what `segment` with the same arguments would do",
    "segment": "archive -> a run: masks, counts, areas",
    "postprocess": "a run -> a new run without specks and holes, or with smoother borders",
    "probabilities": "a run that kept them -> a probability map per micrograph and class, as files for other programs",
    "threshold": "probability maps, or a run that kept them, and a threshold -> masks and areas",
    "measure": "the tables of a run again from its counts, without the model; and where in it a class is",
    "verify": "recompute random shards of a run and compare the bytes",
    "report": "the HTML page of a run",
    "status": "where a run stands, from another shell",
    "export-run": "a run -> masks, overlays, objects and areas in other programs' formats",
    "view": "a run or an archive in the browser, on this machine alone",
    "next": "the places of a run that are most worth labelling",
    "learn": "from what was painted in a run: a better checkpoint within minutes, new masks, and what changed",
    "export": "checkpoint -> one file for other programs, ONNX or torch.export",
    "info": "what the engine sees in files",
    "demo": "simulate, tile, train, segment, report, on an embedded Ray",
}


def module_name(job: str) -> str:
    """What a job is called where a name has no dash: modules, functions, environment variables.

    Example:
        >>> module_name("export-run")
        'export_run'
    """
    return job.replace("-", "_")


class JobTable(Mapping[str, "type[JobSettings]"]):
    """The settings class of each job by name; reading an entry imports its module.

    Args:
        summaries: A line for the help by job, in the order of the help.

    Example:
        >>> JobTable({"report": "the HTML page of a run"})["report"].__name__
        'ReportSettings'
    """

    def __init__(self, summaries: dict[str, str]) -> None:
        self._summaries = summaries

    def __getitem__(self, name: str) -> type[JobSettings]:
        from microseg_ray.settings.base import JobSettings

        if name not in self._summaries:
            raise KeyError(name)
        module = import_module(f"microseg_ray.settings.{module_name(name)}")
        return next(
            value
            for value in vars(module).values()
            if isinstance(value, type) and issubclass(value, JobSettings) and value.job == name
        )

    def summary(self, name: str) -> str:
        """The line of a job in the help; nothing is imported."""
        return self._summaries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._summaries

    def __iter__(self) -> Iterator[str]:
        return iter(self._summaries)

    def __len__(self) -> int:
        return len(self._summaries)


JOBS = JobTable(_SUMMARIES)
"""Every job."""
