"""What a catalog holds: a row for each micrograph."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from microseg_ray.accounts import Account, counted
from microseg_ray.files import name_below, place

if TYPE_CHECKING:
    from collections.abc import Iterable

    from microseg_ray.accounts import NotTaken
    from microseg_ray.files import Place, Where
    from microseg_ray.quarantine import Failure

__all__ = ["Catalog", "CatalogRow", "relative_name"]


@dataclass(frozen=True)
class CatalogRow:
    """One micrograph of a job.

    Attributes:
        name: Posix path of the image relative to the listing root, with its suffix; unique.
        image: Absolute path, or an address.
        mask: As `image`, or None where the job has no masks.
        group: What must stay together in one split.
        split: "train", or what the settings or the table say.
        pixel_size_um: (y, x) in micrometres where the table gives one; it replaces what the file says.

    Example:
        >>> from pathlib import Path
        >>> CatalogRow("a/b#1.tif", Path("/data/a/b#1.tif"), None, "a/b#1", "train").name
        'a/b#1.tif'
    """

    name: str
    image: Place
    mask: Place | None
    group: str
    split: str
    pixel_size_um: tuple[float, float] | None = None


class Catalog(NamedTuple):
    """What a job works on, and what it met beside that.

    Attributes:
        rows: Sorted by name.
        failures: What was set aside.
        listed: Absolute paths of all micrographs that were listed.
        not_taken: (name, reason) of files that are no micrographs of this job.
        masks: How many mask files were listed, and (name, reason) of those that belong to no micrograph; None without masks.
    """

    rows: list[CatalogRow]
    failures: list[Failure]
    listed: tuple[str, ...] = ()
    not_taken: NotTaken = ()
    masks: tuple[int, NotTaken] | None = None

    def accounts(
        self, used: Iterable[CatalogRow], failures: Iterable[Failure], more: NotTaken = ()
    ) -> tuple[Account, ...]:
        """Files and masks: seen = used + set aside + not taken.

        Args:
            used: The rows that are in the job's result.
            failures: All that was set aside, by path, or by name below the root.
            more: (name, reason) of rows that the job left alone.
        """
        listed, done = set(self.listed), {str(row.image) for row in used}
        paths = {row.name: str(row.image) for row in self.rows}
        left = {paths.get(name, name) for name, _ in more}
        broken = {paths.get(failure.path, failure.path) for failure in failures} - done - left
        reasons = counted((*self.not_taken, *more))
        seen = len(listed) + len(self.not_taken)
        files = Account("files", seen, len(done & listed), len(broken & listed), reasons)
        if self.masks is None:
            return (files,)
        total, without = self.masks
        of_row = {str(row.image): str(row.mask) for row in self.rows if row.mask is not None}
        taken = {mask for image, mask in of_row.items() if image in done}
        idle = {mask for image, mask in of_row.items() if image in left} - taken
        reasons = counted(without)
        if idle:
            reasons["of files that are not taken"] = len(idle)
        # A mask whose file was set aside is set aside with it.
        return files, Account("masks", total, len(taken), total - len(without) - len(taken) - len(idle), reasons)


def relative_name(path: Where, root: Where) -> str:
    """The name of a micrograph: its posix path relative to the listing root, with its suffix.

    Raises:
        ValueError: The path is not inside the root.

    Example:
        >>> relative_name("/data/batch 1/a#2 (3).tif", "/data")
        'batch 1/a#2 (3).tif'
    """
    return name_below(place(path), place(root))
