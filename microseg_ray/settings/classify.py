"""Settings of the classify job."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from microseg_ray.settings.base import JobSettings
from microseg_ray.settings.limits import RuntimeChoice, Threads
from microseg_ray.settings.source import SourceSettings

__all__ = ["ClassifySettings"]


class ClassifySettings(JobSettings):
    """`classify`: archive + classifier -> the class of each micrograph with its probability."""

    job: ClassVar[str] = "classify"
    in_object_stores: ClassVar[frozenset[str]] = frozenset({"archive", "checkpoint", "source.pixel_sizes"})
    archive: str = Field(description="folder, glob, file or URL of micrographs")
    checkpoint: str = Field(description="checkpoint of the classifier job, such as OUTPUT/best")
    output: str = Field(default="classes", description="folder for classes.csv and classes.parquet")
    truth: bool = Field(default=False, description="judge as well: the true class of a micrograph is its folder's name")
    precision: Literal["bf16", "fp32"] = "fp32"
    runtime: RuntimeChoice = Field(default="auto", description="what computes, as of segment")
    source: SourceSettings = SourceSettings()
    scale_tolerance: float = Field(default=0.1, ge=0, le=10, description="of the pixel size, for views that are crops")
    on_scale_mismatch: Literal["stop", "rescale", "ignore"] = "rescale"
    gpu: bool = False
    threads: Threads | None = None
    overwrite: bool = False
