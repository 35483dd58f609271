"""Settings of the jobs that make and judge models: train, evaluate."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from microseg_ray.settings.architecture import ModelSettings
from microseg_ray.settings.base import DataJobSettings, JobSettings
from microseg_ray.settings.fitting import OptimizerSettings
from microseg_ray.settings.values import Classes, RaySettings, _lone

__all__ = ["EvaluateSettings", "TrainSettings"]


class TrainSettings(JobSettings):
    """`train`: tile store -> checkpoint."""

    job: ClassVar[str] = "train"
    tiles: str = Field(description="tile store that the tile job wrote")
    output: str = Field(description="folder for best/, last/, metrics and events")
    epochs: int = Field(default=20, ge=1)
    batch: int = Field(default=8, ge=1, description="tiles per step over all workers together")
    workers: int = Field(default=1, ge=0, description="0 runs in this process, without Ray")
    gpu: bool = False
    model: ModelSettings = ModelSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    class_weights: Annotated[Literal["none", "inverse", "median"] | tuple[float, ...], BeforeValidator(_lone)] = "none"
    augment: bool = True
    precision: Literal["bf16", "fp32"] = "bf16"
    steps_per_epoch: int | None = Field(default=None, ge=1)
    max_failures: int = Field(default=2, ge=-1, description="how often a lost worker is replaced; -1: always")
    threads: int | None = Field(
        default=None, ge=1, description="torch threads per worker; default: its share of the cores"
    )
    seed: int = 0
    overwrite: bool = False
    ray: RaySettings = RaySettings()


class EvaluateSettings(DataJobSettings):
    """`evaluate`: masks against predicted masks, or against what a checkpoint predicts."""

    job: ClassVar[str] = "evaluate"
    predictions: str | None = Field(
        default=None, description="folder, glob or file of predicted masks, or a run folder"
    )
    prediction_suffix: str = ""
    checkpoint: str | None = None
    split: str | None = Field(default=None, description="only this split of `data:`")
    output: str = Field(default="evaluation", description="folder for metrics.json")
    classes: Classes = ()
    tile: int | Literal["auto"] = "auto"
    halo: int | Literal["auto"] = "auto"
    precision: Literal["bf16", "fp32"] = "bf16"
    threads: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.predictions is None) == (self.checkpoint is None):
            raise ValueError("give either predictions (predicted masks) or checkpoint (with images), not both or none")
        if self.masks is None:
            raise ValueError("masks: the folder of true masks is missing")
        if self.checkpoint is not None and self.images is None:
            raise ValueError("images: a checkpoint needs micrographs to predict")
        return self
