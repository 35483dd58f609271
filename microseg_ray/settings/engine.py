"""What segment, plan and verify share: everything that decides pixels, and how much fits where."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from microseg_ray.settings.base import JobSettings
from microseg_ray.settings.checkpoints import CheckpointFolders
from microseg_ray.settings.classes import Classes
from microseg_ray.settings.limits import GiB, Halo, RuntimeChoice, Threads, TileArea, TileSide, Workers
from microseg_ray.settings.pixel_size import PixelSize
from microseg_ray.settings.ray import RaySettings, RayShare
from microseg_ray.settings.source import SourceSettings

__all__ = ["EngineSettings"]


class EngineSettings(JobSettings):
    """What segment, plan and verify share: everything that decides pixels, and how much fits where."""

    archive: str = Field(description="folder, glob or file of micrographs, or the URL of one")
    checkpoint: CheckpointFolders = Field(
        description="checkpoint folder of the train job; several (the option again, or a list): their probabilities are averaged"
    )
    output: str = Field(description="run folder")
    classes: Classes = Field(
        default=(), description="compared with those of the checkpoint, in order; none: not compared"
    )
    tile: TileSide | Literal["auto"] = Field(
        default="auto", description="largest tile side in px; auto: what the memory allows"
    )
    tile_area: TileArea | Literal["auto"] = Field(
        default="auto",
        description="largest area of a tile in px, its sides chosen for each micrograph so that the fewest pixels are computed; "
        "auto: the square of `tile` where that is set, else what the memory allows",
    )
    halo: Halo | Literal["auto"] = Field(default="auto", description="auto: the receptive field's radius")
    shard: int = Field(
        default=2048, ge=64, le=1 << 16, description="side of a mask shard, the unit of work and of resuming"
    )
    batch: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = Field(
        default="auto", description="tiles that are computed at a time; auto: what the memory allows"
    )
    path: Literal["auto", "strips", "tiles"] = Field(
        default="auto",
        description="strips: a micrograph is one stream of rows, nothing is computed twice; tiles: squares with halos; auto: "
        "strips where the model allows it and tiles would compute 1.5 pixels or more for each one kept",
    )
    strip: Annotated[int, Field(ge=8, le=8192)] | Literal["auto"] = Field(
        default="auto", description="rows of a strip; auto: what the memory allows"
    )
    strip_width: Annotated[int, Field(ge=64, le=1 << 24)] | Literal["auto"] = Field(
        default="auto", description="widest piece that is computed as one stream, in px; auto: what the memory allows"
    )
    blend: Literal["crop", "hann", "gaussian", "mean"] = "crop"
    overlap: float = Field(
        default=0.5, ge=0, le=0.9, description="overlap of neighbouring tiles for blend, share of the tile"
    )
    tta: bool = Field(default=False, description="average over the 8 symmetries of the square")
    precision: Literal["bf16", "fp32"] = "bf16"
    runtime: RuntimeChoice = Field(
        default="auto", description="what computes; auto: OpenVINO where it is installed and no GPU is used, else torch"
    )
    workers: Workers | Literal["auto"] = Field(
        default=1,
        description="0 runs in this process, without Ray; auto: as many as the cluster has room for, while it grows and shrinks",
    )
    gpu: bool = False
    worker_gpus: RayShare = Field(
        default=1.0, description="with gpu: GPUs of a worker; of a fraction, several workers share one"
    )
    threads: Threads | None = Field(
        default=None, description="torch threads per worker; part of what decides the bytes"
    )
    memory: GiB = Field(default=1.5, description="GiB that a worker may use")
    fingerprint: Literal["stat", "content"] = "stat"
    pixel_size_um: PixelSize = Field(
        default=None, description="(y, x) or one number; overrides source.pixel_size_um and the files' own"
    )
    scale_tolerance: float = Field(
        default=0.1,
        ge=0,
        le=10,
        description="share by which a pixel size may differ from the one that the model was trained at",
    )
    on_scale_mismatch: Literal["stop", "rescale", "ignore"] = Field(
        default="stop", description="stop quarantines the micrograph, rescale resamples it to the trained pixel size"
    )
    on_intensity_mismatch: Literal["stop", "note", "rescale"] = Field(
        default="stop",
        description="where bit depth or range are certainly not those of training: stop quarantines the micrograph, note goes "
        "on, rescale takes the range of the data for that of the type",
    )
    source: SourceSettings = SourceSettings()
    extra: Literal["none", "margin", "entropy", "probabilities"] = "none"
    attempts: int = Field(default=3, ge=1, le=100, description="how often a shard that kills its worker is tried")
    shard_timeout: float = Field(
        default=900.0,
        gt=0,
        description="seconds after which a shard counts as stalled; a band, or finishing a micrograph, has them for each shard",
    )
    overwrite: bool = False
    ray: RaySettings = RaySettings()
