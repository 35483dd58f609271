"""Masks of a run that are damaged on disk: what cannot be opened, and finished masks whose ledger or pixels are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from microseg_ray.errors import UNREADABLE, MicrosegError
from microseg_ray.quarantine import Failure
from microseg_ray.runs.store.masks import MaskStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from microseg_ray.runs.folder import Run
    from microseg_ray.runs.pixels_read import Report

__all__ = ["STAGE", "damaged", "damaged_shards"]

STAGE = "mask"
_NAMED = 5


def damaged_shards(store: MaskStore) -> list[tuple[int, int]]:
    """Shards of a finished mask without a readable ledger entry, or without pixels; none of a mask that is not finished.

    Args:
        store: The mask.
    """
    return store.missing() if store.finished else []


def damaged(run: Run, report: Report = lambda *_: None) -> Iterator[Failure]:
    """The masks of a run that no table can be made of, although they were finished once.

    A finished mask has all its shards, so that a missing one is damage and not work to do. Pixels are not read.

    Args:
        run: The run.
        report: Callback, called with (masks checked, masks in total).
    """
    names = list(run.names())
    for number, name in enumerate(names):
        report(number, len(names))
        try:
            shards = damaged_shards(MaskStore.open(run.store_path(name)))
        except (MicrosegError, OSError, *UNREADABLE) as error:
            yield Failure(name, STAGE, str(error))
            continue
        if shards:
            shown = ", ".join(map(str, shards[:_NAMED])) + (" ..." if len(shards) > _NAMED else "")
            reason = f"{len(shards)} shards of its finished mask are damaged ({shown}); run segment again"
            yield Failure(name, STAGE, reason)
    report(len(names), len(names))
