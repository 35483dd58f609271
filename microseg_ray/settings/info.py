"""Settings of the info job."""

from __future__ import annotations

from typing import ClassVar

from pydantic import AliasChoices, Field

from microseg_ray.settings.base import JobSettings
from microseg_ray.settings.source import SourceSettings

__all__ = ["InfoSettings"]


class InfoSettings(JobSettings):
    """`info`: what the engine sees in files."""

    job: ClassVar[str] = "info"
    positional: ClassVar[str] = "files"
    in_object_stores: ClassVar[frozenset[str]] = frozenset({"checkpoint", "files", "source.pixel_sizes"})
    files: tuple[str, ...] = Field(min_length=1, description="micrographs")
    checkpoint: str | None = Field(default=None, description="compare the files with this checkpoint")
    source: SourceSettings = SourceSettings()
    # `json` itself is a method of pydantic's models.
    as_json: bool = Field(
        default=False, validation_alias=AliasChoices("json", "as_json"), description="one JSON object a file"
    )
