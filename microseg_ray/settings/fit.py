"""Settings of a fit: what train and tune share."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from microseg_ray.settings.base import JobSettings, unwrap_single
from microseg_ray.settings.classes import Classes
from microseg_ray.settings.fitting import (
    NO_AUGMENTATION,
    AugmentSettings,
    EarlyStoppingSettings,
    LossSettings,
    MlflowSettings,
    OptimizerSettings,
    SamplingSettings,
    loss_section,
)
from microseg_ray.settings.limits import Epochs, Seed, Threads
from microseg_ray.settings.model import ModelSettings
from microseg_ray.settings.ray import RaySettings

__all__ = ["FitSettings"]

Weight = Annotated[float, Field(ge=0)]


class FitSettings(JobSettings):
    """What decides how a model is fitted, wherever it runs."""

    tiles: str = Field(description="tile store that the tile job wrote")
    output: str = Field(description="folder for best/, last/, metrics and events")
    epochs: Epochs = 20
    batch: int = Field(default=8, ge=1, le=1 << 20, description="tiles per step over all workers together")
    accumulate: int = Field(
        default=1, ge=1, le=1 << 20, description="parts that a step's batch is computed in, to save memory"
    )
    crop: int | None = Field(
        default=None, ge=8, le=8192, description="train on crops of this many pixels out of larger tiles"
    )
    model: ModelSettings = ModelSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    loss: Annotated[LossSettings, BeforeValidator(loss_section)] = LossSettings()
    class_weights: Annotated[
        Literal["none", "inverse", "median", "inverse_percent"] | tuple[Weight, ...], BeforeValidator(unwrap_single)
    ] = "none"
    sampling: SamplingSettings = SamplingSettings()
    augment: bool | AugmentSettings = Field(default=True, description="true, false, or a section of ranges")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto", description="auto: bf16 where the CPU or GPU computes in it, else fp32"
    )
    clip: float | None = Field(default=None, gt=0, description="largest norm of the gradients")
    ema: float | None = Field(default=None, gt=0, lt=1, description="decay of averaged weights, which are then kept")
    freeze_batch_norm: bool | Literal["encoder"] = Field(
        default=False, description="batch norms keep their weights and statistics: all of them, or those of the encoder"
    )
    channels_last: bool = True
    compile: bool = Field(default=False, description="torch.compile, where it works here")
    select: str = Field(
        default="mean_iou", description="what makes an epoch the best: mean_iou, loss, pixel_accuracy or iou_CLASS"
    )
    early_stopping: EarlyStoppingSettings | None = None
    keep: int = Field(default=0, ge=0, description="how many of the best epochs stay in OUTPUT/epochs")
    steps_per_epoch: int | None = Field(default=None, ge=1)
    held_bytes: int = Field(
        default=2 * 1024**3, ge=0, description="a split up to this size is held in memory, a larger one is streamed"
    )
    classes: Classes = Field(
        default=(), description="names that the store must have in this order; default: not checked"
    )
    allow_empty_classes: bool = Field(
        default=False, description="train although a named class has no pixel in split train"
    )
    init_from: str | None = Field(
        default=None, description="output folder of another fit whose weights, optimizer and epoch this one starts from"
    )
    mlflow: MlflowSettings | None = None
    max_failures: int = Field(default=2, ge=-1, description="how often a lost worker is replaced; -1: always")
    threads: Threads | None = Field(
        default=None, description="torch threads per worker; default: its share of the cores"
    )
    seed: Seed = 0
    overwrite: bool = False
    ray: RaySettings = RaySettings()

    @property
    def augmentation(self) -> AugmentSettings:
        """The ranges that `augment` selects."""
        if isinstance(self.augment, AugmentSettings):
            return self.augment
        return AugmentSettings() if self.augment else NO_AUGMENTATION

    @model_validator(mode="after")
    def _parts_of_a_batch(self) -> Self:
        if self.batch < self.accumulate:
            raise ValueError(f"accumulate: {self.accumulate} parts of a batch of {self.batch} tiles; raise batch")
        return self
