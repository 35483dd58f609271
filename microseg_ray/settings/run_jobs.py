"""Settings of the jobs that make and read runs: segment, plan, verify, measure, postprocess, report."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from microseg_ray.settings.base import JobSettings
from microseg_ray.settings.source import SourceSettings
from microseg_ray.settings.values import PixelSize, RaySettings

__all__ = [
    "EngineSettings",
    "MeasureSettings",
    "PlanSettings",
    "PostprocessSettings",
    "ReportSettings",
    "SegmentSettings",
    "VerifySettings",
]


class EngineSettings(JobSettings):
    """What segment, plan and verify share: everything that decides pixels, and how much fits where."""

    archive: str = Field(description="folder, glob or file of micrographs, or the URL of one")
    checkpoint: str = Field(description="checkpoint folder of the train job")
    output: str = Field(description="run folder")
    tile: int | Literal["auto"] = Field(
        default="auto", description="largest tile side in px; auto: what the memory allows"
    )
    halo: int | Literal["auto"] = Field(default="auto", description="auto: the receptive field's radius")
    shard: int = Field(default=2048, ge=64, description="side of a mask shard, the unit of work and of resuming")
    batch: int | Literal["auto"] = "auto"
    blend: Literal["crop", "hann", "gaussian", "mean"] = "crop"
    overlap: float = Field(
        default=0.5, ge=0, le=0.9, description="overlap of neighbouring tiles for blend, share of the tile"
    )
    tta: bool = Field(default=False, description="average over the 8 symmetries of the square")
    precision: Literal["bf16", "fp32"] = "bf16"
    workers: int = Field(default=1, ge=0, description="0 runs in this process, without Ray")
    gpu: bool = False
    threads: int | None = Field(
        default=None, ge=1, description="torch threads per worker; part of what decides the bytes"
    )
    memory: float = Field(default=1.5, gt=0, description="GiB that a worker may use")
    fingerprint: Literal["stat", "content"] = "stat"
    pixel_size_um: PixelSize = Field(
        default=None, description="(y, x) or one number; overrides source.pixel_size_um and the files' own"
    )
    scale_tolerance: float = Field(
        default=0.1,
        ge=0,
        description="share by which a pixel size may differ from the one that the model was trained at",
    )
    on_scale_mismatch: Literal["stop", "rescale", "ignore"] = Field(
        default="stop", description="stop quarantines the micrograph, rescale resamples it to the trained pixel size"
    )
    source: SourceSettings = SourceSettings()
    extra: Literal["none", "margin", "entropy", "probabilities"] = "none"
    attempts: int = Field(default=3, ge=1, description="how often a shard that kills its worker is tried")
    shard_timeout: float = Field(default=900.0, gt=0, description="seconds after which a shard counts as stalled")
    seed: int = 0
    overwrite: bool = False
    ray: RaySettings = RaySettings()


class SegmentSettings(EngineSettings):
    """`segment`: archive -> a run: masks, counts, areas."""

    job: ClassVar[str] = "segment"


class PlanSettings(EngineSettings):
    """`plan`: what `segment` with the same arguments would do."""

    job: ClassVar[str] = "plan"


class VerifySettings(JobSettings):
    """`verify`: recompute random shards of a run and compare the bytes."""

    job: ClassVar[str] = "verify"
    run: str
    checkpoint: str | None = Field(default=None, description="default: the one that run.json names")
    shards: int = Field(default=8, ge=1)
    seed: int = 0


class MeasureSettings(JobSettings):
    """`measure`: the tables of a run again from its counts, without the model; and where in it a class is.

    With `sections` it writes RUN/sections.csv, which sections of that many px hold which class, and RUN/percentages.csv; with
    `overlays` RUN/overlays/NAME.png. No true mask is needed.
    """

    job: ClassVar[str] = "measure"
    run: str
    pixel_size_um: PixelSize = None
    sections: int | None = Field(
        default=None, ge=1, description="px; lists which sections of this size hold which class (sections.csv)"
    )
    find: str | None = Field(
        default=None, description="sections.csv lists only this class, whatever the case of its name"
    )
    find_max_pixels: int | None = Field(default=None, ge=1, description="larger connected parts of it are not listed")
    find_lines: bool = Field(default=False, description="only parts of it one pixel high or wide are listed")
    overlays: int = Field(
        default=0, ge=0, description="micrographs that are drawn in the colours of their classes, at most"
    )

    @model_validator(mode="after")
    def _goes_together(self) -> Self:
        if self.find is not None and self.sections is None:
            raise ValueError("find: give sections, the size of the sections that are searched, as well")
        if self.find is None and (self.find_max_pixels is not None or self.find_lines):
            raise ValueError("find_max_pixels, find_lines: give find, the class that they are about, as well")
        return self


class PostprocessSettings(JobSettings):
    """`postprocess`: a run -> a new run without specks and holes, or with smoother borders.

    Specks and holes go first, then the majority filter; see `microseg_ray.runs.derived` for what each does.
    """

    job: ClassVar[str] = "postprocess"
    run: str = Field(description="run folder whose masks are read; it is not changed")
    output: str = Field(description="folder of the new run")
    min_speck: int = Field(
        default=0, ge=0, le=4096, description="px; smaller connected parts of a class but the first are removed"
    )
    min_hole: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="px; smaller connected parts of the first class, the background, are filled",
    )
    majority: int = Field(
        default=0, ge=0, le=127, description="px; each pixel takes the most frequent class in a square of this radius"
    )
    workers: int = Field(default=1, ge=0, description="0 runs in this process, without Ray")
    overwrite: bool = False
    ray: RaySettings = RaySettings()

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        # Nothing connected has fewer pixels than one.
        if max(self.min_speck, self.min_hole) <= 1 and self.majority == 0:
            raise ValueError("nothing to do: give min_speck or min_hole above 1, or majority above 0")
        return self


class ReportSettings(JobSettings):
    """`report`: the HTML page of a run."""

    job: ClassVar[str] = "report"
    run: str
