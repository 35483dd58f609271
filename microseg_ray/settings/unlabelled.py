"""The section `unlabelled:` of `train`."""

from __future__ import annotations

from pydantic import Field, field_validator

from microseg_ray.files import absolute_text
from microseg_ray.settings.base import Frozen
from microseg_ray.settings.source import SourceSettings

__all__ = ["UnlabelledSettings"]


class UnlabelledSettings(Frozen):
    """Micrographs without labels that a fit learns from beside its tiles.

    Example:
        >>> UnlabelledSettings(archive="/data/archive").confidence
        0.95
    """

    archive: str = Field(description="folder, glob or file of micrographs, or the URL of one; no masks are needed")
    squares: int = Field(
        default=512,
        ge=1,
        le=1 << 24,
        description="squares that are drawn from it, by area; at least one of each micrograph",
    )
    batch: int = Field(default=4, ge=1, le=1 << 20, description="crops of them in each step, over all workers together")
    weight: float = Field(default=0.5, gt=0, le=1e3, description="of their loss beside that of the labelled tiles")
    ramp: float = Field(default=0.4, ge=0, le=1, description="share of all steps in which the weight rises from 0")
    confidence: float = Field(
        default=0.95, gt=0, le=1, description="least probability at which the averaged weights give a pixel its class"
    )
    source: SourceSettings = SourceSettings()

    @field_validator("archive")
    @classmethod
    def _findable(cls, value: str) -> str:
        # A worker may run in another folder.
        return absolute_text(value)
