"""Settings of the audit job."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from microseg_ray.settings.data import SplitFields
from microseg_ray.settings.source import SourceSettings

__all__ = ["AuditSettings"]


class AuditSettings(SplitFields):
    """`audit`: micrographs that are equal, mirrored, rotated or nearly equal in different splits; exit 1 if there are any."""

    job: ClassVar[str] = "audit"
    masks: str | None = Field(default=None, description="folder, glob or file of masks; stratify alone reads them")
    output: str | None = Field(default=None, description="CSV of the pairs")
    within: bool = Field(default=False, description="list pairs inside one split too; they are no leaks")
    source: SourceSettings = SourceSettings()
