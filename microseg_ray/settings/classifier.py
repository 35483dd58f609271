"""Settings of the classifier job."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from microseg_ray.settings.classes import Classes
from microseg_ray.settings.data import DataJobSettings
from microseg_ray.settings.fitting import NO_AUGMENTATION, AugmentSettings, EarlyStoppingSettings, OptimizerSettings
from microseg_ray.settings.model import ClassifierSettings
from microseg_ray.settings.scaling import Scaling
from microseg_ray.settings.source import SourceSettings
from microseg_ray.settings.views import ViewSettings

__all__ = ["ClassifierJobSettings"]


class ClassifierJobSettings(DataJobSettings):
    """`classifier`: a folder of micrographs per class -> a checkpoint that classifies whole micrographs."""

    job: ClassVar[str] = "classifier"
    output: str = Field(description="folder for best/, last/, metrics, curves and evaluation/")
    classes: Classes = ()
    epochs: int = Field(default=30, ge=1)
    batch: int = Field(default=8, ge=1, description="views per step")
    model: ClassifierSettings = ClassifierSettings()
    channels: Literal["rgb", "gray"] = Field(
        default="rgb", description="what the model sees; gray micrographs become RGB, and RGB ones gray"
    )
    views: ViewSettings = ViewSettings()
    scaling: Scaling = Scaling()
    optimizer: OptimizerSettings = OptimizerSettings()
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    augment: bool | AugmentSettings = Field(default=True, description="true, false, or a section of ranges")
    early_stopping: EarlyStoppingSettings | None = None
    drop_leaks: bool = Field(
        default=False, description="leave micrographs that the test (or val) folder shows too out of training"
    )
    fit_seed: int | None = Field(
        default=None, ge=0, description="of weights, order and augmentation; default: seed, which draws the splits"
    )
    source: SourceSettings = SourceSettings()
    gpu: bool = False
    threads: int | None = Field(default=None, ge=1)
    overwrite: bool = False

    @property
    def augmentation(self) -> AugmentSettings:
        """What `augment` comes to."""
        if isinstance(self.augment, AugmentSettings):
            return self.augment
        return AugmentSettings() if self.augment else NO_AUGMENTATION

    @property
    def first_seed(self) -> int:
        """The seed of the fit."""
        return self.seed if self.fit_seed is None else self.fit_seed

    @property
    def in_channels(self) -> int:
        """Channels that the model sees."""
        return 3 if self.channels == "rgb" else 1

    @model_validator(mode="after")
    def _folders_of_classes(self) -> Self:
        if self.images is None:
            raise ValueError("images: the folder with a sub-folder of micrographs per class is missing")
        if self.masks is not None or self.table is not None:
            raise ValueError("masks, table: the class of a micrograph is its folder's name; give images alone")
        if self.first_seed < 0:
            raise ValueError(f"seed: {self.first_seed} must be 0 or more")
        return self
