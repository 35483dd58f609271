"""Where zarr finds a store: a folder by its path, or a part of a bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from microseg_ray.files.objects import ObjectPath
from microseg_ray.files.places import place

if TYPE_CHECKING:
    import zarr
    from zarr.storage import ObjectStore

    from microseg_ray.files.places import Where

__all__ = ["created_group", "opened_group", "zarr_place"]


def zarr_place(where: Where) -> str | ObjectStore[Any]:
    """What zarr opens a group or an array by.

    Args:
        where: The folder of the group or array.

    Example:
        >>> zarr_place("/data/a.zarr")
        '/data/a.zarr'
    """
    found = place(where)
    if not isinstance(found, ObjectPath):
        return str(found)
    from microseg_ray.files.object_arrays import object_store

    return object_store(found)


def created_group(where: Where) -> zarr.Group:
    """A new group.

    Args:
        where: Its folder.
    """
    # Here and not above: the list of a run is read without opening a mask, and zarr takes half a second.
    import zarr

    return zarr.create_group(zarr_place(where))


def opened_group(where: Where, mode: Literal["r", "r+"]) -> zarr.Group:
    """A group that is there.

    Args:
        where: Its folder.
        mode: `r` to read, `r+` to write, too.

    Raises:
        FileNotFoundError: Nothing is there.
    """
    import zarr

    return zarr.open_group(zarr_place(where), mode=mode, zarr_format=3)
