"""Which part of a file is the micrograph: one page of several, one channel of several, or gray and RGB as they are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from microseg_ray.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["RGB", "Parts", "Wanted", "pick_channels", "pick_page"]

RGB = ("red", "green", "blue")
"""Names of the channels of a colour image."""

_SHOWN = 12


@dataclass(frozen=True)
class Wanted:
    """What is asked of a file.

    Attributes:
        page: Index of the image among those that the file holds.
        channel: Index of one channel, or "auto": gray and RGB as they are.
        labels: Keep the numbers that the file stores (palette indices, 1 for a set bit): it is a mask.

    Example:
        >>> Wanted().channel
        'auto'
    """

    page: int = 0
    channel: int | Literal["auto"] = "auto"
    labels: bool = False


@dataclass(frozen=True)
class Parts:
    """What a file holds, and what of it was taken.

    Attributes:
        page: Index of the page that is read.
        pages: Pages of the file.
        channel: Index of the channel that is read, None where gray or RGB is read as it is.
        channel_names: The page's channels, alpha not counted; the index where the file names none.
        page_names: What the file calls its pages; empty where it names none.

    Example:
        >>> Parts(page=1, pages=3).note
        'page 1 of pages 0 to 2 is used, the 2 others are not taken (source.page)'
    """

    page: int = 0
    pages: int = 1
    channel: int | None = None
    channel_names: tuple[str, ...] = ("gray",)
    page_names: tuple[str, ...] = ()

    @property
    def note(self) -> str:
        """What of several pages is used; "" for a file of one page."""
        if self.pages < 2:
            return ""
        name = f" ({self.page_names[self.page]})" if self.page_names else ""
        others = f"the {self.pages - 1} others are" if self.pages > 2 else "the other is"
        listed = f": {', '.join(self.page_names[:_SHOWN])}" if self.page_names else ""
        return (
            f"page {self.page}{name} of pages 0 to {self.pages - 1}{listed} is used, {others} not taken (source.page)"
        )


def pick_page(path: str, wanted: Wanted, pages: int) -> int:
    """The page that is asked for.

    Raises:
        InputError: The file has no such page.

    Example:
        >>> pick_page("a.tif", Wanted(page=3), 2)
        Traceback (most recent call last):
            ...
        microseg_ray.errors.InputError: a.tif: there is no page 3, the file has 2 (0 to 1); set source.page
    """
    if wanted.page < pages:
        return wanted.page
    known = f"the file has {pages} (0 to {pages - 1})" if pages > 1 else "the file has one (0)"
    raise InputError(path, f"there is no page {wanted.page}, {known}", "set source.page")


def pick_channels(path: str, wanted: Wanted, names: Sequence[str]) -> tuple[slice, int | None]:
    """The channels that are asked for.

    Args:
        path: For the message.
        wanted: With `channel` "auto", one or three channels are taken as gray or RGB.
        names: The channels of the page, alpha not counted.

    Returns:
        The channels to read, and the index of the one that was picked (None where all are read).

    Raises:
        InputError: There is no such channel; or none was picked of a number that is neither gray nor RGB.

    Example:
        >>> pick_channels("a.tif", Wanted(channel=1), ["DAPI", "GFP"])
        (slice(1, 2, None), 1)
        >>> pick_channels("a.tif", Wanted(), ["DAPI", "GFP"])
        Traceback (most recent call last):
            ...
        microseg_ray.errors.InputError: a.tif: the image has 2 channels (0: DAPI, 1: GFP), which is neither gray nor ...
    """
    count = len(names)
    listed = ", ".join(
        str(index) if name == str(index) else f"{index}: {name}" for index, name in enumerate(names[:_SHOWN])
    )
    listed += ", ..." if count > _SHOWN else ""
    if wanted.channel == "auto":
        if count in {1, 3}:
            return slice(0, count), None
        reason = f"the image has {count} channels ({listed}), which is neither gray nor RGB"
        raise InputError(path, reason, f"set source.channel to one of 0 to {count - 1}")
    if not 0 <= wanted.channel < count:
        reason = f"there is no channel {wanted.channel}, the image has {count} ({listed})"
        raise InputError(path, reason, "set source.channel")
    return slice(wanted.channel, wanted.channel + 1), wanted.channel
