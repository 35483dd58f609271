"""Settings of the recipe job: those of a fit, all of them open, and how much CPU time there is."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BeforeValidator, Field

from microseg_ray.settings.fit import FitSettings
from microseg_ray.settings.fitting import LossSettings, OptimizerSettings, SamplingSettings, loss_section
from microseg_ray.settings.limits import Workers
from microseg_ray.settings.model import ModelSettings

__all__ = ["RecipeSettings"]


class RecipeSettings(FitSettings):
    """`recipe`: tile store -> settings of `train` that suit it, as a config with a reason for each value.

    What the section `train` of the config or the command line says is kept, and the rest is chosen so that it suits it.
    """

    job: ClassVar[str] = "recipe"
    inherits: ClassVar[str] = "train"
    output: str = Field(description="folder that `train` will write to; the config is OUTPUT.yaml")
    write: str | None = Field(default=None, description="YAML file to write; default: OUTPUT.yaml")
    replace: bool = Field(default=False, description="replace a file that is there with another content")
    cpu_minutes: float | None = Field(
        default=None, gt=0, description="what the fit may take, in minutes of CPU time; default: by the data alone"
    )
    # Open here, so that what is given can be told from a default.
    model: ModelSettings | None = None  # type: ignore[assignment]
    optimizer: OptimizerSettings | None = None  # type: ignore[assignment]
    loss: Annotated[LossSettings | None, BeforeValidator(loss_section)] = None  # type: ignore[assignment]
    sampling: SamplingSettings | None = None  # type: ignore[assignment]
    workers: Workers = Field(default=1, description="of `train`")
    gpu: bool = Field(default=False, description="of `train`")
