"""Settings of every job that fits a network by epochs of steps: train, tune and pretrain."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from microseg_ray.settings.base import JobSettings
from microseg_ray.settings.fitting import AugmentSettings, MlflowSettings, OptimizerSettings, augmentation_of
from microseg_ray.settings.limits import Epochs, Seed, Threads
from microseg_ray.settings.model import ModelSettings
from microseg_ray.settings.ray import RaySettings

__all__ = ["EpochSettings"]


class EpochSettings(JobSettings):
    """What decides how a network learns, whatever it learns from."""

    output: str = Field(description="folder of what the job writes: weights, metrics, events")
    epochs: Epochs = 20
    batch: int = Field(default=8, ge=1, le=1 << 20, description="tiles per step over all workers together")
    # A factory: pydantic-settings would put the name of a default instance over a section that means another one.
    model: ModelSettings = Field(default_factory=ModelSettings)
    optimizer: OptimizerSettings = OptimizerSettings()
    augment: bool | AugmentSettings = Field(default=True, description="true, false, or a section of ranges")
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        default="auto", description="auto: bf16 where the CPU or GPU computes in it, else fp32"
    )
    clip: float | None = Field(default=None, gt=0, description="largest norm of the gradients")
    channels_last: bool = True
    steps_per_epoch: int | None = Field(default=None, ge=1)
    held_bytes: int = Field(
        default=2 * 1024**3, ge=0, description="a split up to this size is held in memory, a larger one is streamed"
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
        return augmentation_of(self.augment)

    @property
    def store(self) -> str:
        """Folder of the tile store that is learnt from."""
        raise NotImplementedError

    @property
    def on_gpu(self) -> bool:
        """Whether the fit runs on GPUs."""
        return bool(getattr(self, "gpu", False))
