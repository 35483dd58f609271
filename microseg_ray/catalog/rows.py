"""What a catalog holds: a row for each micrograph."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

__all__ = ["CatalogRow", "relative_name"]


@dataclass(frozen=True)
class CatalogRow:
    """One micrograph of a job.

    Attributes:
        name: Posix path of the image relative to the listing root, with its suffix; unique.
        image: Absolute path.
        mask: Absolute path, or None where the job has no masks.
        group: What must stay together in one split.
        split: "train", or what the settings or the table say.
        pixel_size_um: (y, x) in micrometres where the table gives one; it replaces what the file says.

    Example:
        >>> CatalogRow("a/b#1.tif", Path("/data/a/b#1.tif"), None, "a/b#1", "train").name
        'a/b#1.tif'
    """

    name: str
    image: Path
    mask: Path | None
    group: str
    split: str
    pixel_size_um: tuple[float, float] | None = None


def relative_name(path: str | os.PathLike[str], root: str | os.PathLike[str]) -> str:
    """The name of a micrograph: its posix path relative to the listing root, with its suffix.

    Raises:
        ValueError: The path is not inside the root.

    Example:
        >>> relative_name("/data/batch 1/a#2 (3).tif", "/data")
        'batch 1/a#2 (3).tif'
    """
    return Path(path).relative_to(root).as_posix()
