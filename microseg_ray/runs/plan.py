"""What a run will do, decided before it starts: tiles, halo, memory, verdict."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from microseg_ray.errors import SettingsError
from microseg_ray.geometry import ceil_to, floor_to
from microseg_ray.models.computing import Computing
from microseg_ray.models.runtimes import FREE_PIXELS, HELD_PIXELS
from microseg_ray.models.strips.reason import NotStreamableError
from microseg_ray.models.strips.schedule import strip_pixels
from microseg_ray.runs.store.spec import CHUNK
from microseg_ray.stitching import EnginePlan, engine_grid
from microseg_ray.stitching.shard_memory import shard_bytes

if TYPE_CHECKING:
    from microseg_ray.models.card import ModelCard
    from microseg_ray.models.strips.streaming import Streaming
    from microseg_ray.settings import EngineSettings

__all__ = ["Projection", "RunPlan", "Verdict", "engine_plan", "project_memory", "verdict_of"]

GIB = 1024**3
TORCH = Computing("torch", {})
Verdict = Literal["exact", "bounded", "unsafe"]

# Resident memory of a worker before its first shard (interpreter, torch, zarr, Ray's own): measured in
# benchmarks/memory.py, rounded up.
BASE_BYTES = 560 * 1024**2
# Convolution libraries keep scratch and reordered copies beside the tensors that PyTorch knows of; measured likewise.
SCRATCH = 1.6
# The same for OpenVINO (`resunet` bf16: 130 bytes a pixel of tile, where PyTorch's tensors take 128), and its libraries with
# the graph that it keeps to compile for other sizes from.
OPENVINO_SCRATCH = 1.15
# Strips, for each of `strip_pixels`, measured in float32: 0.95 to 1.5 times the tensors that PyTorch knows of for `resunet`,
# 1.1 to 1.8 for `unet`.
OPENVINO_STRIP_SCRATCH = 1.6
OPENVINO_BYTES = 128 * 1024**2
AUDITED = 1 + 0.75**2
# One shard is read or written while another is computed.
SHARDS_IN_FLIGHT = 2
# Of the GPU's memory; the rest is for its libraries and for fragmentation.
DEVICE_SHARE = 0.8
SMALLEST_TILE = 64
SIDE_STEP = 32
"""Of the squares that are tried, in pixels."""
STRIP_ROWS = (256, 128, 64)
"""Rows of a strip that are tried: taller ones copy less, lower ones reach further across."""
ENOUGH_WIDTH = 8192
"""Pixels: no strip is wider by itself. A halo costs a few percent there, and memory is the same for all that is wider."""
WORTH = 1.5
"""Pixels computed in tiles for each one kept, from which on `path: auto` takes strips."""
_MANY = 8
"""Shards of a side of a micrograph whose borders count for little."""
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
        computing: What computes.
        path_reason: Why tiles and not strips, in one sentence; empty for strips.
    """

    engine: EnginePlan
    verdict: Verdict
    reason: str
    worker_bytes: int
    computing: Computing
    path_reason: str = ""


@dataclass(frozen=True)
class Projection:
    """Peak memory of one worker, in bytes.

    Attributes:
        host: Resident in the process, without decoded sources.
        device: On the GPU; 0 without one.
    """

    host: int
    device: int


def project_memory(
    plan: EnginePlan, card: ModelCard, precision: str, *, gpu: bool = False, computing: Computing = TORCH
) -> Projection:
    """What one worker will take at most; compared with measurements in benchmarks/memory.py.

    Args:
        plan: The engine's plan.
        card: The model's card.
        precision: `bf16` or `fp32`.
        gpu: Whether the model and its activations lie on a GPU.
        computing: What computes.
    """
    used = computing.record.get("runtime_precision", precision)
    per_pixel = card.footprint.bf16 if used == "bf16" else card.footprint.fp32
    if computing.runtime == "openvino":
        # One tile at a time, whatever the batch; the second shape of the seam audit stays compiled beside a small one.
        pixels_held = max(plan.tile_pixels, min(AUDITED * plan.tile_pixels, FREE_PIXELS))
        model = int(OPENVINO_BYTES + 3 * card.footprint.parameter_bytes + per_pixel * pixels_held * OPENVINO_SCRATCH)
    else:
        model = int(2 * card.footprint.parameter_bytes + per_pixel * plan.tile_pixels * plan.batch * SCRATCH)
    pixels = shard_bytes(plan, card.in_channels, 4 if card.scaling.kind != "dtype" else 2, len(card.classes))
    host = BASE_BYTES + SHARDS_IN_FLIGHT * pixels
    return Projection(host, model) if gpu else Projection(host + model, 0)


def engine_plan(
    settings: EngineSettings, card: ModelCard, device_bytes: int | None = None, computing: Computing = TORCH
) -> RunPlan:
    """Turn `auto` into numbers and say what the run promises.

    Args:
        settings: The job's settings.
        card: The model's card.
        device_bytes: Memory of the GPU, where one is used and known.
        computing: What computes.

    Raises:
        SettingsError: The chosen values cannot work, or do not fit the memory; the message says which to change.
    """
    _check_shard(settings, card)
    stride = card.receptive_field.stride
    # A blend crops nothing, so that the setting is not used: the tile must not follow from it.
    wanted = settings.halo if settings.blend == "crop" and settings.halo != "auto" else card.receptive_field.halo
    halo = EnginePlan(tile=stride, halo=wanted, stride=stride, shard=settings.shard).halo
    least = stride if settings.blend != "crop" else 2 * halo + stride
    budget = Projection(int(settings.memory * GIB), int((device_bytes or 0) * DEVICE_SHARE))
    tiles = None
    for tile, area in _tile_sizes(settings, least, halo, stride):
        engine = _engine(settings, (tile, area), halo, stride)
        needs = project_memory(engine, card, settings.precision, gpu=settings.gpu, computing=computing)
        if needs.host <= budget.host and (not budget.device or needs.device <= budget.device):
            tiles = RunPlan(engine, *verdict_of(engine, card), needs.host, computing)
            break
    try:
        if settings.path == "auto" and tiles is not None:
            _require_worth(tiles.engine)
        strip, width, needed_bytes = strips_of(settings, card, halo, budget.device or budget.host, computing)
    except NotStreamableError as error:
        if settings.path == "strips":
            raise SettingsError(f"{settings.job}.path: strips are not possible: {error}; set path: tiles") from error
        if tiles is not None:
            return replace(tiles, path_reason=str(error))
    else:
        # No tile is computed but one of the audit, which is small.
        engine = replace(_engine(settings, (max(least, stride), 0), halo, stride), strip=strip, strip_width=width)
        return RunPlan(engine, *verdict_of(engine, card), needed_bytes, computing)
    needed = (needs.host + needs.device) / GIB
    raise SettingsError(
        f"memory {settings.memory:g} GiB: a worker needs about {needed:.2f} GiB at tiles of {engine.tile_pixels} px, "
        f"batch {engine.batch}, shard {settings.shard}; raise memory, or lower tile, batch or shard"
    )


def _require_worth(plan: EnginePlan) -> None:
    """Strips are compiled for each width and end of a micrograph: where tiles cost little more, they are taken.

    Raises:
        NotStreamableError: They do.
    """
    if plan.tile_area:
        tax = engine_grid((_MANY * plan.shard, _MANY * plan.shard), plan).halo_tax
    else:
        tax = (plan.tile / (plan.tile - 2 * plan.halo)) ** 2 if plan.blend == "crop" else WORTH
    if tax < WORTH:
        raise NotStreamableError(f"tiles compute {tax:.2f} pixels for each one kept, less than {WORTH:g}")


def strips_of(
    settings: EngineSettings, card: ModelCard, halo: int, budget: int, computing: Computing = TORCH
) -> tuple[int, int, int]:
    """Rows of a strip, the widest piece that is one stream, and the memory that such a piece takes.

    Args:
        settings: The job's settings.
        card: The model's card.
        halo: In pixels.
        budget: Bytes that a worker may take.
        computing: What computes.

    Raises:
        NotStreamableError: The model, or another setting, needs tiles.
    """
    for set_, name in (
        (settings.path == "tiles", "path: tiles"),
        (settings.blend != "crop", f"blend: {settings.blend} averages overlapping tiles"),
        (settings.tta, "tta: symmetries of tiles are averaged"),
        (settings.tile != "auto" or settings.tile_area != "auto", "a size of tiles is set"),
        (settings.batch != "auto", "a batch of tiles is set"),
    ):
        if set_:
            raise NotStreamableError(name)
    from microseg_ray.models.strips.streaming import streaming_of

    stride = card.receptive_field.stride
    wanted = STRIP_ROWS if settings.strip == "auto" else (settings.strip,)
    best: tuple[int, int, int] | None = None
    for rows in dict.fromkeys(ceil_to(each, stride) for each in wanted):
        streaming = streaming_of(card, rows)

        def needed(width: int, streaming: Streaming = streaming) -> int:
            return strip_bytes(settings, card, streaming, width + 2 * halo, computing)

        width = settings.strip_width
        if width == "auto":
            widths = range(1, max(ENOUGH_WIDTH // settings.shard, 1) + 1)
            shards = bisect_right(widths, budget, key=lambda n: needed(n * settings.shard))
            width = shards * settings.shard
        found = rows, width, needed(width)
        if width >= max(ENOUGH_WIDTH, settings.shard) or settings.strip_width != "auto":
            return found
        if best is None or width > best[1]:
            best = found
    if best is None or best[1] < settings.shard:
        raise NotStreamableError(
            f"a strip over the width of a shard ({settings.shard} px) does not fit memory {settings.memory:g} GiB"
        )
    return best


def strip_bytes(
    settings: EngineSettings, card: ModelCard, streaming: Streaming, width: int, computing: Computing = TORCH
) -> int:
    """What a worker takes that computes strips of a width.

    Args:
        settings: The job's settings.
        card: The model's card.
        streaming: The strip.
        width: In pixels.
        computing: What computes.
    """
    used = computing.record.get("runtime_precision", settings.precision)
    if used == "bf16":
        per_pixel, itemsize, limit = card.footprint.bf16, 2, HELD_PIXELS["bf16"]
    else:
        per_pixel, itemsize, limit = card.footprint.fp32, 4, HELD_PIXELS["fp32"]
    parameters, fixed = card.footprint.parameter_bytes, BASE_BYTES
    if computing.runtime == "openvino":
        # Each compiled graph holds the weights: first, middle, last, and the audit's tile.
        fixed += OPENVINO_BYTES + 6 * parameters
        graphs = OPENVINO_STRIP_SCRATCH * per_pixel * _held_pixels(streaming, width, limit)
    else:
        fixed += 2 * parameters
        graphs = SCRATCH * per_pixel * max(streaming.first, streaming.rows + streaming.lag // 4) * width
    classes = len(card.classes)
    extra = {"none": 0, "margin": 1, "entropy": 1}.get(settings.extra, 2 * classes)
    scores = 0 if settings.extra == "none" else 8 * classes
    image = (streaming.rows + streaming.again + streaming.first) * card.in_channels * 6
    tallest = max(streaming.first, streaming.rows + streaming.lag)
    # Kept rows move through a buffer of twice their number and those of a strip. The mask of a row of shards, and a copy of a
    # shard to write.
    column = (
        (scores + 4 * classes) * tallest
        + 3 * itemsize * streaming.kept_numbers
        + image
        + settings.shard * 2 * (1 + extra)
    )
    return int(fixed + graphs + column * width)


def _held_pixels(streaming: Streaming, width: int, limit: int) -> float:
    """Pixels of the strips whose graphs have memory at the same time: first, middle and last, as `strip_pixels`."""
    rows, lag, first = streaming.rows, streaming.lag, streaming.first
    each = [strip_pixels(*ends, width) for ends in ((first, first - lag), (rows, rows), (rows, rows + lag))]
    return min(sum(each), max(limit, *each))


def _check_shard(settings: EngineSettings, card: ModelCard) -> None:
    stride = card.receptive_field.stride
    if settings.shard % stride:
        raise SettingsError(f"shard {settings.shard}: must be a multiple of the model's stride {stride}")
    if settings.shard > CHUNK and settings.shard % CHUNK:
        raise SettingsError(f"shard {settings.shard}: above {CHUNK} it must be a multiple of {CHUNK}, the zarr chunk")


def _tile_sizes(settings: EngineSettings, least: int, halo: int, stride: int) -> list[tuple[int, int]]:
    """Largest side and area of tiles that are tried, the largest first; an area of 0 is that of the square.

    Args:
        settings: The job's settings.
        least: Side of the smallest tile.
        halo: In pixels.
        stride: Of the model.

    Raises:
        SettingsError: The sizes that were set cannot work.
    """
    largest = ceil_to(settings.shard + 2 * halo, stride)
    if settings.tile != "auto" and (settings.tile % stride or settings.tile < least):
        raise SettingsError(
            f"tile {settings.tile}: must be a multiple of the model's stride {stride} and, beside a halo of {halo} px on each "
            f"side, at least {least}; raise tile or lower halo"
        )
    # Symmetries turn tiles, and windows are square.
    square = settings.blend != "crop" or settings.tta
    if settings.tile_area != "auto":
        if square or settings.tile_area < least**2:
            reason = "blend and tta take square tiles" if square else f"the smallest tile has {least**2} px"
            raise SettingsError(f"tile_area {settings.tile_area}: {reason}; set tile_area: auto")
        return [(largest if settings.tile == "auto" else settings.tile, settings.tile_area)]
    if settings.tile != "auto":
        return [(settings.tile, 0)]
    sides = {floor_to(side, stride) for side in range(SMALLEST_TILE, largest, SIDE_STEP)} | {least}
    fitting = sorted((side for side in sides if least <= side < largest), reverse=True)
    return [(largest, 0), *((side, 0) if square else (largest, side**2) for side in fitting)]


def _engine(settings: EngineSettings, size: tuple[int, int], halo: int, stride: int) -> EnginePlan:
    tile, area = size
    batch = settings.batch if settings.batch != "auto" else max(1, min(MAX_BATCH, BATCH_PIXELS // (area or tile**2)))
    return EnginePlan(
        tile=tile,
        halo=halo,
        stride=stride,
        shard=settings.shard,
        batch=batch,
        blend=settings.blend,
        overlap=settings.overlap,
        tta=settings.tta,
        extra=settings.extra,
        tile_area=area,
    )


def verdict_of(plan: EnginePlan, card: ModelCard) -> tuple[Verdict, str]:
    """What stitching promises with this plan and this model.

    Returns:
        The verdict and, unless it is `exact`, the reason.
    """
    field = card.receptive_field
    if card.scaling.clahe is not None:
        return "unsafe", "CLAHE equalises each tile by itself"
    if field.tile_dependent:
        layers = ", ".join(field.tile_dependent[:3])
        advice = "; train with norm: batch" if "Norm" in layers else ""
        return "unsafe", f"the model sees the whole tile through {layers}{advice}"
    if plan.blend != "crop":
        return "bounded", f"blend {plan.blend} averages pixels near tile borders; blend crop with halo auto is exact"
    if plan.halo < field.radius:
        return (
            "bounded",
            f"halo {plan.halo} is smaller than the receptive field's radius {field.radius}; halo auto is exact",
        )
    return "exact", ""
