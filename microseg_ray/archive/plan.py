"""What a run will do, decided before it starts: tiles, halo, memory, verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from microseg_ray.errors import SettingsError
from microseg_ray.geometry import ceil_to, floor_to
from microseg_ray.stitching import EnginePlan
from microseg_ray.stitching.shards import shard_bytes

if TYPE_CHECKING:
    from microseg_ray.models.card import ModelCard
    from microseg_ray.settings import EngineSettings

__all__ = ["RunPlan", "Verdict", "engine_plan", "project_memory", "verdict_of"]

GIB = 1024**3
Verdict = Literal["exact", "bounded", "unsafe"]

# Resident memory of a worker before its first shard (interpreter, torch, zarr, Ray's own): measured in
# benchmarks/memory.py, rounded up.
BASE_BYTES = 560 * 1024**2
# Convolution libraries keep scratch and reordered copies beside the tensors that PyTorch knows of; measured likewise.
SCRATCH = 1.6
SMALLEST_TILE = 64
MAX_BATCH = 8
BATCH_PIXELS = 1024**2


@dataclass(frozen=True)
class RunPlan:
    """The engine's plan with what it promises.

    Attributes:
        engine: Everything that decides pixels besides model and micrograph.
        verdict: `exact`: equal to a whole-image pass; `bounded`: seams are possible and measured; `unsafe`: the model
            sees the whole tile.
        reason: Why not `exact`, in one sentence; empty otherwise.
        worker_bytes: Projected peak memory of one worker, without decoded sources.
    """

    engine: EnginePlan
    verdict: Verdict
    reason: str
    worker_bytes: int


def project_memory(plan: EnginePlan, card: ModelCard, precision: str, workers_overlap: int = 2) -> int:
    """Projected peak resident bytes of one worker, without the decoded source.

    Args:
        plan: The engine's plan.
        card: The model's card.
        precision: `bf16` or `fp32`.
        workers_overlap: Shards in flight in a worker: one is read or written while another is computed.

    Returns:
        Bytes.
    """
    per_pixel = card.footprint.bf16 if precision == "bf16" else card.footprint.fp32
    activations = per_pixel * plan.tile**2 * plan.batch * SCRATCH
    pixels = shard_bytes(plan, card.in_channels, 4 if card.scaling.kind != "dtype" else 2, len(card.classes))
    return int(BASE_BYTES + 2 * card.footprint.parameter_bytes + activations + workers_overlap * pixels)


def engine_plan(settings: EngineSettings, card: ModelCard) -> RunPlan:
    """Turn `auto` into numbers and say what the run promises.

    Raises:
        SettingsError: The chosen values cannot work, or do not fit the memory; the message says which to change.
    """
    field = card.receptive_field
    if settings.shard % field.stride:
        raise SettingsError(f"shard {settings.shard}: must be a multiple of the model's stride {field.stride}")
    if settings.shard > min(512, settings.shard) and settings.shard % 512:
        raise SettingsError(f"shard {settings.shard}: above 512 it must be a multiple of 512, the zarr chunk")
    halo = field.halo if settings.halo == "auto" else settings.halo
    largest = ceil_to(settings.shard + 2 * ceil_to(halo, field.stride), field.stride)
    if settings.tile != "auto":
        sides = [settings.tile]
    else:
        sides = sorted(
            {floor_to(side, field.stride) for side in range(SMALLEST_TILE, largest + 1, 64)} | {largest}, reverse=True
        )
    budget = int(settings.memory * GIB)
    tried: RunPlan | None = None
    for side in sides:
        if side % field.stride or side < max(1, field.stride):
            raise SettingsError(f"tile {side}: must be a multiple of the model's stride {field.stride}")
        if settings.blend == "crop" and side - 2 * ceil_to(halo, field.stride) < field.stride:
            break
        batch = settings.batch if settings.batch != "auto" else max(1, min(MAX_BATCH, BATCH_PIXELS // side**2))
        engine = EnginePlan(
            tile=side,
            halo=halo,
            stride=field.stride,
            shard=settings.shard,
            batch=batch,
            blend=settings.blend,
            overlap=settings.overlap,
            tta=settings.tta,
            extra=settings.extra,
        )
        tried = RunPlan(engine, *verdict_of(engine, card), project_memory(engine, card, settings.precision))
        if settings.tile != "auto" or tried.worker_bytes <= budget:
            break
    if tried is None:
        raise SettingsError(
            f"tile {sides[-1]}: leaves no core beside a halo of {halo} px on each side; raise tile or lower halo"
        )
    if tried.worker_bytes > budget:
        raise SettingsError(
            f"memory {settings.memory:g} GiB: a worker needs about {tried.worker_bytes / GIB:.2f} GiB at "
            f"tile {tried.engine.tile}, batch {tried.engine.batch}, shard {settings.shard}; raise memory, or lower tile, batch or shard"
        )
    return tried


def verdict_of(plan: EnginePlan, card: ModelCard) -> tuple[Verdict, str]:
    """What stitching promises with this plan and this model.

    Returns:
        The verdict and, unless it is `exact`, the reason.
    """
    field = card.receptive_field
    if card.scaling.clahe is not None:
        return "unsafe", "CLAHE equalises each tile by itself"
    if field.tile_dependent:
        return (
            "unsafe",
            f"the model sees the whole tile through {', '.join(field.tile_dependent[:3])}; train with norm: batch",
        )
    if plan.blend != "crop":
        return "bounded", f"blend {plan.blend} averages pixels near tile borders; blend crop with halo auto is exact"
    if plan.halo < field.radius:
        return (
            "bounded",
            f"halo {plan.halo} is smaller than the receptive field's radius {field.radius}; halo auto is exact",
        )
    return "exact", ""
