"""Settings: one frozen model per job; YAML file < environment < command line, merged field by field.

One YAML may hold the sections of several jobs (`tile:`, `train:` ...) and what they share: `classes:`, `data:` (images,
masks, groups, splits) and `ray:`. A job reads its own section and those shared keys that it has a field for. An unknown
key anywhere is an error that names it.
"""

from __future__ import annotations

from microseg_ray.settings.architecture import ModelSettings
from microseg_ray.settings.base import DataJobSettings, JobSettings
from microseg_ray.settings.data_jobs import InfoSettings, SimulateSettings, TileSettings
from microseg_ray.settings.fitting import OptimizerSettings
from microseg_ray.settings.jobs import JOBS, DemoSettings
from microseg_ray.settings.loading import load_settings, read_config, settings_from
from microseg_ray.settings.model_jobs import EvaluateSettings, TrainSettings
from microseg_ray.settings.run_jobs import (
    EngineSettings,
    MeasureSettings,
    PlanSettings,
    PostprocessSettings,
    ReportSettings,
    SegmentSettings,
    VerifySettings,
)
from microseg_ray.settings.source import SourceSettings
from microseg_ray.settings.values import (
    IGNORE_INDEX,
    Classes,
    ClassSpec,
    DataSettings,
    Frozen,
    PixelSize,
    RaySettings,
    Scaling,
    default_color,
)

__all__ = [
    "IGNORE_INDEX",
    "JOBS",
    "ClassSpec",
    "Classes",
    "DataJobSettings",
    "DataSettings",
    "DemoSettings",
    "EngineSettings",
    "EvaluateSettings",
    "Frozen",
    "InfoSettings",
    "JobSettings",
    "MeasureSettings",
    "ModelSettings",
    "OptimizerSettings",
    "PixelSize",
    "PlanSettings",
    "PostprocessSettings",
    "RaySettings",
    "ReportSettings",
    "Scaling",
    "SegmentSettings",
    "SimulateSettings",
    "SourceSettings",
    "TileSettings",
    "TrainSettings",
    "VerifySettings",
    "default_color",
    "load_settings",
    "read_config",
    "settings_from",
]
