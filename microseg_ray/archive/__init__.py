"""A run over an archive, without Ray: what is to do, what a worker does, what is kept, what it comes to.

`segmentation` schedules these steps on Ray actors; the plain loop here is the reference that it must equal.
"""

from __future__ import annotations

from microseg_ray.archive.job import Job, archive_inputs, prepare_job, worker_config
from microseg_ray.archive.plan import RunPlan, engine_plan, project_memory, verdict_of
from microseg_ray.archive.run import Run, RunIdentity
from microseg_ray.archive.tasks import FinishTask, Outcome, Prepared, PrepareTask, ShardTask, Task
from microseg_ray.archive.worker import ArchiveWorker

__all__ = [
    "ArchiveWorker",
    "FinishTask",
    "Job",
    "Outcome",
    "PrepareTask",
    "Prepared",
    "Run",
    "RunIdentity",
    "RunPlan",
    "ShardTask",
    "Task",
    "archive_inputs",
    "engine_plan",
    "prepare_job",
    "project_memory",
    "verdict_of",
    "worker_config",
]
