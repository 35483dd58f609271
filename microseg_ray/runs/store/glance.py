"""What one file says of a mask, for those who look at ten thousand of them: no array is opened."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import UNREADABLE, StoreError
from microseg_ray.files import place

if TYPE_CHECKING:
    from collections.abc import Mapping

    from microseg_ray.files import Where

__all__ = ["Glance", "glance"]


@dataclass(frozen=True)
class Glance:
    """A mask, as its `zarr.json` describes it.

    Attributes:
        shape: (height, width).
        extra: `margin`, `entropy`, `probabilities` or `none`.
        finished: Whether pyramid and metadata are written.
        record: All that the store says of itself: identity, shard, note.
    """

    shape: tuple[int, int]
    extra: str
    finished: bool
    record: Mapping[str, Any]


def glance(path: Where) -> Glance:
    """Read the attributes of a mask store. `MaskStore.open` takes ten times as long, because it opens the arrays as well.

    Raises:
        StoreError: No mask store is there, or its attributes are damaged.

    Example:
        >>> glance("/nowhere")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.StoreError: /nowhere: no mask store is here, or it is damaged (...); `verify` says more
    """
    try:
        attributes = json.loads((place(path) / "zarr.json").read_text(encoding="utf-8"))["attributes"]
        record = attributes["microseg"]
        height, width = record["shape"]
        return Glance((int(height), int(width)), str(record["extra"]), "ome" in attributes, record)
    except (OSError, *UNREADABLE) as error:
        raise StoreError(f"{path}: no mask store is here, or it is damaged ({error}); `verify` says more") from error
