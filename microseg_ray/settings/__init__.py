"""Settings: one frozen model per job; YAML file < environment < command line, merged field by field.

One YAML may hold the sections of several jobs (`tile:`, `train:` ...) and what they share: `classes:`, `data:` (images,
masks, groups, splits) and `ray:`. A job reads its own section and those shared keys that it has a field for. An unknown
key anywhere is an error that names it.
"""

from __future__ import annotations

from microseg_ray.settings.jobs import (
    JOBS,
    DemoSettings,
    EngineSettings,
    EvaluateSettings,
    InfoSettings,
    JobSettings,
    MeasureSettings,
    PlanSettings,
    PostprocessSettings,
    ReportSettings,
    SegmentSettings,
    SimulateSettings,
    TileSettings,
    TrainSettings,
    VerifySettings,
)
from microseg_ray.settings.loading import load_settings, read_config, settings_from
from microseg_ray.settings.values import (
    IGNORE_INDEX,
    Classes,
    ClassSpec,
    DataSettings,
    Frozen,
    ModelSettings,
    OptimizerSettings,
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
    "TileSettings",
    "TrainSettings",
    "VerifySettings",
    "default_color",
    "load_settings",
    "read_config",
    "settings_from",
]
