"""Settings of the threshold job."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from microseg_ray.settings.base import JobSettings
from microseg_ray.settings.pixel_size import PixelSize

__all__ = ["ThresholdSettings"]


class ThresholdSettings(JobSettings):
    """`threshold`: probability maps, or a run that kept them, and a threshold -> masks and areas.

    A pixel belongs to the class where its probability is above the threshold, strictly. `evaluate` chooses thresholds
    on a validation split (thresholds.csv).
    """

    job: ClassVar[str] = "threshold"
    leading: ClassVar[str | None] = "probabilities"
    probabilities: str | None = Field(
        default=None, description="folder, glob or file of probability maps: CSV, npy, TIFF, zarr"
    )
    run: str | None = Field(default=None, description="run folder, segmented with extra: probabilities")
    class_name: str | None = Field(
        default=None, description="the class that is asked for; of a run, whose probability is compared"
    )
    channel: int | None = Field(
        default=None, ge=0, description="of maps that hold several, (channel, y, x), the one to use"
    )
    threshold: float = Field(ge=-1, le=1, description="probabilities above it are of the class")
    scale: float = Field(
        default=1.0, gt=0, description="the value in a map that means probability 1: 255 for 8-bit maps"
    )
    pixel_size_um: PixelSize = Field(default=None, description="(y, x) or one number; overrides the files' own")
    output: str = Field(description="folder for masks and areas.csv; of a run, the folder of the new run")
    format: Literal["png", "tiff", "zarr"] = Field(default="png", description="of the masks of maps; runs are zarr")
    overwrite: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.probabilities is None) == (self.run is None):
            raise ValueError("give either probabilities (maps) or run (a run folder), not both or none")
        if self.run is not None:
            self.refuse_given(("channel", "scale", "format"), "goes with probabilities (maps); a run's maps are known")
        if self.run is not None and self.class_name is None:
            raise ValueError("class_name: name the class of the run whose probability is compared")
        return self
