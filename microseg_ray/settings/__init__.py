"""Settings: one frozen model per job; YAML file < environment < command line, merged field by field.

One YAML may hold the sections of several jobs (`tile:`, `train:` ...) and what they share: `classes:`, `data:` (images,
masks, groups, splits) and `ray:`. A job reads its own section and those shared keys that it has a field for. An unknown
key anywhere is an error that names it.
"""

from __future__ import annotations

from microseg_ray.settings.annotate import AnnotateSettings, ThresholdRule
from microseg_ray.settings.architecture import ClassifierSettings, ModelSettings
from microseg_ray.settings.base import DataJobSettings, JobSettings
from microseg_ray.settings.catalog import AuditSettings, CatalogSettings
from microseg_ray.settings.classify import ClassifierJobSettings, ClassifySettings, ViewSettings
from microseg_ray.settings.data_jobs import InfoSettings, TileSettings
from microseg_ray.settings.divide import DivideSettings
from microseg_ray.settings.export import ExportSettings
from microseg_ray.settings.fitting import (
    AugmentSettings,
    EarlyStoppingSettings,
    LossSettings,
    MlflowSettings,
    OptimizerSettings,
    PlateauSettings,
    SamplingSettings,
)
from microseg_ray.settings.jobs import JOBS, DemoSettings
from microseg_ray.settings.loading import load_settings, read_config, settings_from
from microseg_ray.settings.model_jobs import EvaluateSettings, TrainSettings
from microseg_ray.settings.probabilities import ProbabilitiesSettings
from microseg_ray.settings.run_jobs import (
    EngineSettings,
    MeasureSettings,
    PlanSettings,
    PostprocessSettings,
    ReportSettings,
    SegmentSettings,
    VerifySettings,
)
from microseg_ray.settings.simulate import ImagingSettings, SimulateSettings
from microseg_ray.settings.source import SourceSettings
from microseg_ray.settings.threshold import ThresholdSettings
from microseg_ray.settings.tune import TuneSettings
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
    "AnnotateSettings",
    "AuditSettings",
    "AugmentSettings",
    "CatalogSettings",
    "ClassSpec",
    "Classes",
    "ClassifierJobSettings",
    "ClassifierSettings",
    "ClassifySettings",
    "DataJobSettings",
    "DataSettings",
    "DemoSettings",
    "DivideSettings",
    "EarlyStoppingSettings",
    "EngineSettings",
    "EvaluateSettings",
    "ExportSettings",
    "Frozen",
    "ImagingSettings",
    "InfoSettings",
    "JobSettings",
    "LossSettings",
    "MeasureSettings",
    "MlflowSettings",
    "ModelSettings",
    "OptimizerSettings",
    "PixelSize",
    "PlanSettings",
    "PlateauSettings",
    "PostprocessSettings",
    "ProbabilitiesSettings",
    "RaySettings",
    "ReportSettings",
    "SamplingSettings",
    "Scaling",
    "SegmentSettings",
    "SimulateSettings",
    "SourceSettings",
    "ThresholdRule",
    "ThresholdSettings",
    "TileSettings",
    "TrainSettings",
    "TuneSettings",
    "VerifySettings",
    "ViewSettings",
    "default_color",
    "load_settings",
    "read_config",
    "settings_from",
]
