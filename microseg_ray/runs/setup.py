"""From a job's settings to what is the same for the whole run: inputs, plan, identity, configuration of the workers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from microseg_ray.accounts import counted
from microseg_ray.errors import SettingsError
from microseg_ray.files import absolute_text
from microseg_ray.models.computing import Computing, decide_runtime
from microseg_ray.models.ensemble import describe, folders
from microseg_ray.runs.calibration import calibration_record
from microseg_ray.runs.config import WorkerConfig
from microseg_ray.runs.drive import Input
from microseg_ray.runs.identity import RunIdentity, pixel_settings
from microseg_ray.runs.plan import RunPlan, engine_plan
from microseg_ray.sources import ScaleRule, root_of, survey_inputs
from microseg_ray.sources.agreement import class_order_objection
from microseg_ray.sources.remote import is_url, location
from microseg_ray.sources.scale.table import read_pixel_sizes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from microseg_ray.models.card import ModelCard
    from microseg_ray.settings import EngineSettings, SourceSettings

__all__ = ["Engine", "Job", "archive_inputs", "prepare_engine", "prepare_job", "worker_config"]


@dataclass(frozen=True)
class Job:
    """A run before its first task.

    Attributes:
        inputs: The archive.
        not_taken: What else was met in it, by reason.
        plan: Tiles, halo, memory, verdict.
        config: The configuration of the workers.
        identity: What results are bound to.
        record: What goes into run.json beside the identity.
    """

    inputs: list[Input]
    not_taken: Mapping[str, int]
    plan: RunPlan
    config: WorkerConfig
    identity: RunIdentity
    record: dict[str, Any]


def archive_inputs(archive: str) -> tuple[list[Input], dict[str, int]]:
    """The micrographs of an archive (folder, glob, file, or URL of one), named by their path below its root.

    Returns:
        The micrographs, and how many other files were met and not taken, by reason.

    Raises:
        InputError: There is nothing.
    """
    found = survey_inputs(archive)
    return [Input(name, path) for name, path in found.entries], counted(found.not_taken)


def worker_config(
    settings: EngineSettings, card: ModelCard, digest: str, plan: RunPlan, computing: Computing
) -> WorkerConfig:
    """The configuration of this run's workers."""
    source = _source(settings)
    scale = ScaleRule(card.pixel_size_um, settings.scale_tolerance, settings.on_scale_mismatch)
    pixels = pixel_settings(settings, card, plan.engine, source, scale, computing.record)
    return WorkerConfig(
        checkpoint=_absolute_checkpoint(settings),
        precision=settings.precision,
        runtime=computing.runtime,
        device=pixels["device"],
        threads=pixels["threads"],
        plan=plan.engine,
        identity={"model_digest": digest, "pixels": pixels},
        classes=card.classes,
        channels=card.in_channels,
        scaling=card.scaling,
        fingerprint=settings.fingerprint,
        intensities=card.intensities,
        intensity_mismatch=settings.on_intensity_mismatch,
        source=source,
        scale=scale,
        verdict=plan.verdict,
        decoded_limit=int(settings.memory * 1024**3),
    )


def _source(settings: EngineSettings) -> SourceSettings:
    """How workers open micrographs; wherever they run, the table of pixel sizes is the caller's.

    Raises:
        InputError: The table is missing or damaged, which no micrograph is to blame for.
    """
    source = settings.source
    if source.pixel_sizes is not None:
        source = source.model_copy(update={"pixel_sizes": absolute_text(source.pixel_sizes)})
        read_pixel_sizes(str(source.pixel_sizes))
    return (
        source
        if settings.pixel_size_um is None
        else source.model_copy(update={"pixel_size_um": settings.pixel_size_um})
    )


def _absolute_checkpoint(settings: EngineSettings) -> str | tuple[str, ...]:
    places = tuple(absolute_text(place) for place in folders(settings.checkpoint))
    return places if len(places) > 1 else places[0]


def _members(engine: Engine) -> dict[str, Any]:
    """The identity of each checkpoint of an ensemble, for run.json."""
    if not engine.members:
        return {}
    return {"members": [{"checkpoint": place, "model_digest": digest} for place, digest in engine.members]}


def gpu_memory(share: float = 1.0) -> int | None:
    """Bytes of this machine's first GPU; None where there is none (workers elsewhere may have one).

    Args:
        share: GPUs of a worker; of a fraction it gets that part of the memory.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    return int(torch.cuda.get_device_properties(0).total_memory * min(1.0, share))


def _absolute(archive: str) -> str:
    return archive if is_url(archive) else os.path.abspath(location(archive))  # noqa: PTH100 - may be a glob


@dataclass(frozen=True)
class Engine:
    """The model and how it is used, the same for `segment`, `plan`, `verify` and `evaluate`.

    Attributes:
        card: The model's card.
        digest: Its `model_digest`.
        plan: Tiles, halo, memory, verdict.
        config: What workers are given.
        computing: What computes.
        members: Folder and `model_digest` of each checkpoint of an ensemble.
    """

    card: ModelCard
    digest: str
    plan: RunPlan
    config: WorkerConfig
    computing: Computing
    members: tuple[tuple[str, str], ...] = ()


def prepare_engine(settings: EngineSettings) -> Engine:
    """Read the checkpoint's card and decide the plan.

    Raises:
        InputError: The table of pixel sizes cannot be read.
        CheckpointError: The checkpoint cannot be used.
        SettingsError: Settings that cannot work together or do not fit the memory.
    """
    described = describe(settings.checkpoint)
    card, digest = described.card, described.digest
    reason = class_order_objection(settings.classes, card.classes, ", ".join(folders(settings.checkpoint)))
    if reason:
        raise SettingsError(f"{settings.job}.classes: {reason}; correct `classes`, or give another checkpoint")
    computing = decide_runtime(
        settings.checkpoint,
        card,
        settings.runtime,
        settings.precision,
        "cuda" if settings.gpu else "cpu",
        f"{settings.job}.runtime",
    )
    plan = engine_plan(settings, card, gpu_memory(settings.worker_gpus) if settings.gpu else None, computing)
    config = worker_config(settings, card, digest, plan, computing)
    return Engine(card, digest, plan, config, computing, described.members)


def prepare_job(settings: EngineSettings) -> Job:
    """Read the checkpoint's card, list the archive, decide the plan.

    Raises:
        InputError: The archive is missing or empty.
        CheckpointError: The checkpoint cannot be used.
        SettingsError: Settings that cannot work together or do not fit the memory.
    """
    engine = prepare_engine(settings)
    card, plan, config = engine.card, engine.plan, engine.config
    inputs, not_taken = archive_inputs(settings.archive)
    record = {
        "settings": settings.resolved(),
        "archive": root_of(settings.archive),
        "source": _absolute(settings.archive),
        "checkpoint": config.checkpoint if isinstance(config.checkpoint, str) else list(config.checkpoint),
        **_members(engine),
        "classes": [item.model_dump() for item in card.classes],
        "model_pixel_size_um": None if card.pixel_size_um is None else list(card.pixel_size_um),
        "verdict": plan.verdict,
        "verdict_reason": plan.reason,
        "runtime": engine.computing.words,
        "runtime_note": engine.computing.note,
        "fingerprint": config.fingerprint,
        "calibration": calibration_record(settings),
        "not_taken": not_taken,
    }
    return Job(inputs, not_taken, plan, config, RunIdentity(engine.digest, config.identity["pixels"]), record)
