"""Settings of the postprocess job."""

from __future__ import annotations

from typing import ClassVar, Self

from pydantic import Field, model_validator

from microseg_ray.settings.base import JobSettings
from microseg_ray.settings.limits import Workers
from microseg_ray.settings.ray import RaySettings

__all__ = ["PostprocessSettings"]


class PostprocessSettings(JobSettings):
    """`postprocess`: a run -> a new run without specks and holes, or with smoother borders.

    Specks and holes are removed, then the majority filter runs, then specks and holes that it made are removed; no part below
    its limit is left that has another class around it. `microseg_ray.runs.derived.operations` defines each step.
    """

    job: ClassVar[str] = "postprocess"
    in_object_stores: ClassVar[frozenset[str]] = frozenset({"run", "output"})
    run: str = Field(description="run folder whose masks are read; it is not changed")
    output: str = Field(description="folder of the new run")
    min_speck: int = Field(
        default=0, ge=0, le=4096, description="px; smaller connected parts of a class but the first are removed"
    )
    min_hole: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="px; smaller connected parts of the first class, the background, are filled",
    )
    majority: int = Field(
        default=0, ge=0, le=127, description="px; each pixel takes the most frequent class in a square of this radius"
    )
    workers: Workers = Field(default=1, description="0 runs in this process, without Ray")
    overwrite: bool = False
    ray: RaySettings = RaySettings()

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        # Nothing connected has fewer pixels than one.
        if max(self.min_speck, self.min_hole) <= 1 and self.majority == 0:
            raise ValueError("nothing to do: give min_speck or min_hole above 1, or majority above 0")
        return self
