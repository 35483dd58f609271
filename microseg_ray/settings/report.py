"""Settings of the report job."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from microseg_ray.settings.base import JobSettings

__all__ = ["ReportSettings"]


class ReportSettings(JobSettings):
    """`report`: the HTML page of a run."""

    job: ClassVar[str] = "report"
    in_object_stores: ClassVar[frozenset[str]] = frozenset({"run"})
    run: str = Field(description="run folder")
    panels: int = Field(
        default=12, ge=0, le=1000, description="micrographs shown with their masks, those first whose areas differ most"
    )
    places: int = Field(
        default=12, ge=0, le=1000, description="least certain places shown, of a run made with extra: margin or entropy"
    )
    thumbnails: bool = Field(default=True, description="a thumbnail of each mask beside its areas, in RUN/thumbnails")
