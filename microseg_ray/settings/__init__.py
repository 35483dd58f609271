"""Settings: one frozen model per job; YAML file < environment < command line, merged field by field.

One YAML may hold the sections of several jobs (`tile:`, `train:` ...) and what they share: `classes:`, `data:` (images,
masks, groups, splits) and `ray:`. A job reads its own section and those shared keys that it has a field for. An unknown
key anywhere is an error that names it.

A name is imported when it is first used, so that a job loads no other job's code, and `microseg --help` no pydantic.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from microseg_ray.settings.registry import JOBS

if TYPE_CHECKING:
    from microseg_ray.settings.annotate import AnnotateSettings
    from microseg_ray.settings.audit import AuditSettings
    from microseg_ray.settings.base import Frozen, JobSettings
    from microseg_ray.settings.catalog import CatalogSettings
    from microseg_ray.settings.classes import IGNORE_INDEX, Classes, ClassSpec, default_color
    from microseg_ray.settings.classifier import ClassifierJobSettings
    from microseg_ray.settings.classify import ClassifySettings
    from microseg_ray.settings.config_file import read_config
    from microseg_ray.settings.data import DataJobSettings, DataSettings
    from microseg_ray.settings.demo import DemoSettings
    from microseg_ray.settings.divide import DivideSettings
    from microseg_ray.settings.engine import EngineSettings
    from microseg_ray.settings.evaluate import EvaluateSettings
    from microseg_ray.settings.export import ExportSettings
    from microseg_ray.settings.export_run import ExportRunSettings
    from microseg_ray.settings.fitting import (
        AugmentSettings,
        EarlyStoppingSettings,
        LossSettings,
        MlflowSettings,
        OptimizerSettings,
        PlateauSettings,
        SamplingSettings,
    )
    from microseg_ray.settings.imaging import ImagingSettings
    from microseg_ray.settings.info import InfoSettings
    from microseg_ray.settings.loading import load_settings, print_options, settings_from
    from microseg_ray.settings.measure import MeasureSettings
    from microseg_ray.settings.model import ClassifierSettings, ModelSettings
    from microseg_ray.settings.objects import ObjectSettings
    from microseg_ray.settings.pixel_size import PixelSize
    from microseg_ray.settings.plan import PlanSettings
    from microseg_ray.settings.postprocess import PostprocessSettings
    from microseg_ray.settings.pretrain import PretrainSettings
    from microseg_ray.settings.probabilities import ProbabilitiesSettings
    from microseg_ray.settings.ray import RaySettings
    from microseg_ray.settings.recipe import RecipeSettings
    from microseg_ray.settings.report import ReportSettings
    from microseg_ray.settings.scaling import Scaling
    from microseg_ray.settings.segment import SegmentSettings
    from microseg_ray.settings.simulate import SimulateSettings
    from microseg_ray.settings.source import SourceSettings
    from microseg_ray.settings.status import StatusSettings
    from microseg_ray.settings.threshold import ThresholdSettings
    from microseg_ray.settings.tile import TileSettings
    from microseg_ray.settings.train import TrainSettings
    from microseg_ray.settings.tune import TuneSettings
    from microseg_ray.settings.unlabelled import UnlabelledSettings
    from microseg_ray.settings.verify import VerifySettings
    from microseg_ray.settings.views import ViewSettings

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
    "ExportRunSettings",
    "ExportSettings",
    "Frozen",
    "ImagingSettings",
    "InfoSettings",
    "JobSettings",
    "LossSettings",
    "MeasureSettings",
    "MlflowSettings",
    "ModelSettings",
    "ObjectSettings",
    "OptimizerSettings",
    "PixelSize",
    "PlanSettings",
    "PlateauSettings",
    "PostprocessSettings",
    "PretrainSettings",
    "ProbabilitiesSettings",
    "RaySettings",
    "RecipeSettings",
    "ReportSettings",
    "SamplingSettings",
    "Scaling",
    "SegmentSettings",
    "SimulateSettings",
    "SourceSettings",
    "StatusSettings",
    "ThresholdSettings",
    "TileSettings",
    "TrainSettings",
    "TuneSettings",
    "UnlabelledSettings",
    "VerifySettings",
    "ViewSettings",
    "default_color",
    "load_settings",
    "print_options",
    "read_config",
    "settings_from",
]

_MODULES = {
    "AugmentSettings": "fitting",
    "ClassSpec": "classes",
    "Classes": "classes",
    "ClassifierSettings": "model",
    "DataJobSettings": "data",
    "DataSettings": "data",
    "EarlyStoppingSettings": "fitting",
    "EngineSettings": "engine",
    "Frozen": "base",
    "IGNORE_INDEX": "classes",
    "ImagingSettings": "imaging",
    "JobSettings": "base",
    "LossSettings": "fitting",
    "MlflowSettings": "fitting",
    "ModelSettings": "model",
    "OptimizerSettings": "fitting",
    "PixelSize": "pixel_size",
    "PlateauSettings": "fitting",
    "ObjectSettings": "objects",
    "RaySettings": "ray",
    "SamplingSettings": "fitting",
    "Scaling": "scaling",
    "SourceSettings": "source",
    "UnlabelledSettings": "unlabelled",
    "ViewSettings": "views",
    "default_color": "classes",
    "load_settings": "loading",
    "print_options": "loading",
    "read_config": "config_file",
    "settings_from": "loading",
}
"""Where the names are that belong to no single job."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"microseg_ray.settings.{_MODULES[name]}"), name)
    for job in JOBS:
        plain = job.replace("-", "")
        if name.lower() in {f"{plain}settings", f"{plain}jobsettings"}:
            return JOBS[job]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
