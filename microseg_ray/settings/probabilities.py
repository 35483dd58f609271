"""Settings of the probabilities job: which maps of a run, as which files."""

from __future__ import annotations

from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from microseg_ray.settings.base import JobSettings

__all__ = ["ProbabilitiesSettings"]


class ProbabilitiesSettings(JobSettings):
    """`probabilities`: a run that kept them -> a probability map per micrograph and class, as files for other programs."""

    job: ClassVar[str] = "probabilities"
    in_object_stores: ClassVar[frozenset[str]] = frozenset({"run"})
    run: str = Field(description="run folder, segmented with extra: probabilities")
    class_name: str | None = Field(default=None, description="only this class; default: a map for each")
    output: str = Field(description="folder for maps/NAME_CLASS.csv and failures.csv")
    format: Literal["auto", "csv", "npy", "tiff", "zarr"] = Field(
        default="auto", description="auto: csv up to csv_pixels, zarr above"
    )
    csv_pixels: int = Field(default=2048 * 2048, ge=1, description="largest micrograph that `auto` writes as text")
    overwrite: bool = Field(default=False, description="write over maps of another run")

    @model_validator(mode="after")
    def _limit_is_used(self) -> Self:
        if self.format != "auto":
            self.refuse_given(("csv_pixels",), "goes with format auto")
        return self
