"""Settings of the view job."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from microseg_ray.settings.base import JobSettings

__all__ = ["ViewJobSettings"]


class ViewJobSettings(JobSettings):
    """`view`: a run or an archive in the browser, on this machine alone.

    The page lists the micrographs and shows each with its mask, at any size. It answers on 127.0.0.1 and to its own address
    with its token. What is painted goes into `labels`, as index masks that `tile --table LABELS/labels.csv` reads. Nothing else
    is changed.
    """

    job: ClassVar[str] = "view"
    leading: ClassVar[str | None] = "run"
    in_object_stores: ClassVar[frozenset[str]] = frozenset({"run"})
    run: str = Field(description="run folder, or an archive: a folder, glob, file or URL of micrographs")
    truth: str | None = Field(default=None, description="folder of true masks with the names of the micrographs")
    labels: str | None = Field(
        default=None, description="folder for what is painted; default: RUN/labels, of an archive none"
    )
    who: str | None = Field(default=None, description="who paints, until the page says another name; default: the user")
    port: int = Field(default=0, ge=0, le=65535, description="0: any that is free")
    browser: bool = Field(default=True, description="open the page in the browser of this machine")
    cache: str | None = Field(
        default=None, description="folder for overviews and thumbnails; default: the user's caches"
    )
