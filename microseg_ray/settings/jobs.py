"""Every job by name."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from microseg_ray.settings.annotate import AnnotateSettings
from microseg_ray.settings.base import JobSettings
from microseg_ray.settings.catalog import AuditSettings, CatalogSettings
from microseg_ray.settings.classify import ClassifierJobSettings, ClassifySettings
from microseg_ray.settings.data_jobs import InfoSettings, TileSettings
from microseg_ray.settings.divide import DivideSettings
from microseg_ray.settings.export import ExportSettings
from microseg_ray.settings.model_jobs import EvaluateSettings, TrainSettings
from microseg_ray.settings.probabilities import ProbabilitiesSettings
from microseg_ray.settings.run_jobs import (
    MeasureSettings,
    PlanSettings,
    PostprocessSettings,
    ReportSettings,
    SegmentSettings,
    VerifySettings,
)
from microseg_ray.settings.simulate import SimulateSettings
from microseg_ray.settings.threshold import ThresholdSettings
from microseg_ray.settings.tune import TuneSettings
from microseg_ray.settings.values import RaySettings

__all__ = ["JOBS", "DemoSettings"]


class DemoSettings(JobSettings):
    """`demo`: simulate, tile, train, segment, report, on an embedded Ray."""

    job: ClassVar[str] = "demo"
    output: str = "demo"
    size: int = Field(default=4096, ge=256, description="side of the large micrograph")
    count: int = Field(default=6, ge=3, description="training micrographs")
    epochs: int = Field(default=8, ge=1)
    workers: int = Field(default=2, ge=0)
    seed: int = 0
    overwrite: bool = True
    ray: RaySettings = RaySettings()


JOBS: dict[str, type[JobSettings]] = {
    cls.job: cls
    for cls in (
        SimulateSettings,
        AnnotateSettings,
        CatalogSettings,
        AuditSettings,
        DivideSettings,
        TileSettings,
        TrainSettings,
        TuneSettings,
        ClassifierJobSettings,
        ClassifySettings,
        EvaluateSettings,
        PlanSettings,
        SegmentSettings,
        PostprocessSettings,
        ProbabilitiesSettings,
        ThresholdSettings,
        MeasureSettings,
        VerifySettings,
        ReportSettings,
        ExportSettings,
        InfoSettings,
        DemoSettings,
    )
}
