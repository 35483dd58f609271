"""The pyramid of a large mask, made in pieces by several processes and gone on with after a kill.

While it is made, the mask's group has the attribute `levels`: shards of levels that are on disk then were made of the mask as
it is. A shard of the mask that is written or given up takes the attribute away, so that all levels are made anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.files import delete_file
from microseg_ray.files.arrays import opened_group
from microseg_ray.runs.store.pyramid import create_level, level_grids, make_level_shard
from microseg_ray.runs.store.shard_files import flush, held, shard_file
from microseg_ray.runs.store.shard_set import ShardSet

if TYPE_CHECKING:
    from collections.abc import Mapping

    import zarr

    from microseg_ray.runs.store.spec import MaskSpec

__all__ = ["BEGUN", "Levels"]

BEGUN = "levels"


@dataclass(frozen=True)
class Levels:
    """The levels of one mask's pyramid.

    Attributes:
        path: Of the mask store.
        group: Its group.
        spec: What it was made for.
        record: Its `microseg` attribute.

    Example:
        >>> import tempfile
        >>> from microseg_ray.runs.store.masks import MaskStore
        >>> from microseg_ray.runs.store.spec import MaskSpec
        >>> from microseg_ray.settings import ClassSpec
        >>> folder = tempfile.mkdtemp()
        >>> spec = MaskSpec((3, 600), (ClassSpec(name="matrix"),), shard=256)
        >>> store = MaskStore.create(f"{folder}/a.zarr", spec, identity={})
        >>> for shard in store.missing():
        ...     _ = store.commit(shard, np.zeros(spec.box(shard).shape, np.uint8))
        >>> [list(shards) for shards in store.levels.begin()]
        [[(0, 0), (0, 1)]]
        >>> store.levels.make(1, (0, 1))
        >>> [list(shards) for shards in store.levels.begin()]
        [[(0, 0)]]
    """

    path: str
    group: zarr.Group
    spec: MaskSpec
    record: Mapping[str, Any]

    def begin(self) -> list[ShardSet]:
        """Make the empty levels, or go on with those that were begun; the mask is not finished meanwhile.

        Returns:
            The shards of levels 1, 2, ... that are to be made.
        """
        if BEGUN in opened_group(self.path, "r").attrs:
            return self.missing()
        record: dict[str, Any] = {"microseg": dict(self.record)}
        # In this order: a kill between leaves levels that nobody takes for begun ones.
        self.group.attrs.put(record)
        grids = level_grids(self.spec)
        for level in range(1, len(grids) + 1):
            create_level(self.group, self.spec, level)
        self.group.attrs.put({**record, BEGUN: True})
        return [ShardSet(grid) for grid in grids]

    def missing(self) -> list[ShardSet]:
        """The shards of levels 1, 2, ... that are not on disk."""
        found = []
        for level, grid in enumerate(level_grids(self.spec), 1):
            here = held(self.path, self._array(level))
            found.append(ShardSet.of(grid, (shard for shard in np.ndindex(*grid) if not here(shard))))
        return found

    def make(self, level: int, shard: tuple[int, int]) -> None:
        """Write one shard of a level; those of the level below must be there.

        Args:
            level: From 1.
            shard: (y, x) index of the shard.
        """
        file = shard_file(self.path, self._array(level), shard)
        # zarr cannot overwrite a shard whose index is corrupt.
        delete_file(file)
        make_level_shard(self.group, self.spec, level, shard)
        flush(self.path, file)

    def _array(self, level: int) -> zarr.Array[Any]:
        found: Any = self.group[str(level)]
        return found  # type: ignore[no-any-return]
