"""Settings of the classifier job."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from microseg_ray.settings.classes import Classes
from microseg_ray.settings.data import AuditMode, DataFields
from microseg_ray.settings.fitting import AugmentSettings, EarlyStoppingSettings, OptimizerSettings, augmentation_of
from microseg_ray.settings.limits import Epochs, Seed, Threads
from microseg_ray.settings.model import ClassifierSettings
from microseg_ray.settings.scaling import Scaling
from microseg_ray.settings.source import SourceSettings
from microseg_ray.settings.views import ViewSettings

__all__ = ["ClassifierJobSettings"]


class ClassifierJobSettings(DataFields):
    """`classifier`: a folder of micrographs per class -> a checkpoint that classifies whole micrographs."""

    job: ClassVar[str] = "classifier"
    in_object_stores: ClassVar[frozenset[str]] = frozenset({"model.weights"})
    images: str | None = Field(default=None, description="folder with a sub-folder of micrographs per class")
    image_suffix: str = Field(default="", description="end of a micrograph's stem that is not part of its key")
    group: str | None = Field(default=None, description="regular expression; micrographs of one group stay together")
    splits: dict[str, float | tuple[str, ...]] = Field(
        default_factory=dict, description="by split, a share of the groups or a list of groups"
    )
    stratify: bool = Field(default=False, description="spread the classes evenly over the splits")
    audit: AuditMode = Field(default="stop", description="equal micrographs in different splits: stop, report or off")
    seed: Seed = Field(default=0, description="of the shares")
    output: str = Field(description="folder for best/, last/, metrics, curves and evaluation/")
    classes: Classes = ()
    epochs: Epochs = 30
    batch: int = Field(default=8, ge=1, le=65536, description="views per step")
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
    fit_seed: Seed | None = Field(
        default=None, description="of weights, order and augmentation; default: seed, which draws the splits"
    )
    source: SourceSettings = SourceSettings()
    gpu: bool = False
    threads: Threads | None = None
    overwrite: bool = False

    @property
    def augmentation(self) -> AugmentSettings:
        """The ranges that `augment` selects."""
        return augmentation_of(self.augment)

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
        return self
