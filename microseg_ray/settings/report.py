"""Settings of the report job."""

from __future__ import annotations

from typing import ClassVar

from microseg_ray.settings.base import JobSettings

__all__ = ["ReportSettings"]


class ReportSettings(JobSettings):
    """`report`: the HTML page of a run."""

    job: ClassVar[str] = "report"
    run: str
