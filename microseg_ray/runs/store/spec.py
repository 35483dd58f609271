"""What a mask store is made for, and how its arrays of pixels are laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from microseg_ray.errors import StoreError
from microseg_ray.geometry import Box, ceil_to
from microseg_ray.settings import IGNORE_INDEX

if TYPE_CHECKING:
    import zarr

    from microseg_ray.settings import ClassSpec
    from microseg_ray.statistics.counts import SpreadKind

__all__ = ["EXTRAS", "NOT_DONE", "Extra", "MaskSpec", "create_ledger", "create_pixels"]

CHUNK = 512
NOT_DONE = -1
"""In place of a count of pixels, in shards that are not done."""
Extra = Literal["none", "margin", "entropy", "probabilities"]
EXTRAS: tuple[Extra, ...] = ("margin", "entropy", "probabilities")


@dataclass(frozen=True)
class MaskSpec:
    """What a mask store is made for.

    Attributes:
        shape: (height, width) of the micrograph.
        classes: Names and colours, in the order of the class index.
        shard: Side of a shard in pixels: the unit of work, of writing and of resuming; above 512 a multiple of 512.
        extra: Which per-pixel output is kept beside the class.
        spreads: What is counted by each of several predictions, and how many there are: checkpoints of an ensemble (`ensemble`),
            symmetries (`tta`).

    Raises:
        StoreError: The shape is empty, or the shard does not hold whole chunks.
    """

    shape: tuple[int, int]
    classes: tuple[ClassSpec, ...]
    shard: int = 2048
    extra: Extra = "none"
    spreads: tuple[tuple[SpreadKind, int], ...] = ()

    def __post_init__(self) -> None:
        if min(self.shape) < 1:
            raise StoreError(f"shape {self.shape}: a mask has at least 1 x 1 pixels")
        if self.shard < 1 or self.shard % self.chunk:
            raise StoreError(f"shard {self.shard}: above {CHUNK} it must be a multiple of {CHUNK}, the zarr chunk")
        if self.extra not in {"none", *EXTRAS}:
            raise StoreError(f"extra {self.extra!r}: must be none or one of {', '.join(EXTRAS)}")

    @property
    def chunk(self) -> int:
        """Side of a zarr chunk inside a shard."""
        return min(CHUNK, self.shard)

    @property
    def shards(self) -> tuple[int, int]:
        """Shards along (y, x)."""
        return -(-self.shape[0] // self.shard), -(-self.shape[1] // self.shard)

    def box(self, shard: tuple[int, int]) -> Box:
        """The pixels of one shard, given its (y, x) index.

        Raises:
            StoreError: There is no such shard.

        Example:
            >>> MaskSpec((5000, 3000), (), shard=2048).box((2, 1))
            Box(y0=4096, x0=2048, y1=5000, x1=3000)
        """
        if not (0 <= shard[0] < self.shards[0] and 0 <= shard[1] < self.shards[1]):
            raise StoreError(
                f"shard {shard}: there are {self.shards[0]} x {self.shards[1]} shards, counted from (0, 0)"
            )
        y0, x0 = shard[0] * self.shard, shard[1] * self.shard
        return Box(y0, x0, min(y0 + self.shard, self.shape[0]), min(x0 + self.shard, self.shape[1]))

    def shard_of(self, box: Box) -> tuple[int, int]:
        """The index of the shard that `box` is, exactly.

        Raises:
            StoreError: The box is not one whole shard: a partial write could be lost or read half-done.
        """
        shard = (
            min(max(0, box.y0 // self.shard), self.shards[0] - 1),
            min(max(0, box.x0 // self.shard), self.shards[1] - 1),
        )
        if self.box(shard) != box:
            raise StoreError(
                f"{box} is not one whole shard of {self.shard} px: several writers of one shard lose data silently and a "
                "partial write cannot be distinguished from a finished one; stitch the shard first, then write "
                f"{self.box(shard)}"
            )
        return shard


def create_pixels(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    spec: MaskSpec,
    dtype: str = "uint8",
    *,
    overwrite: bool = False,
) -> zarr.Array[Any]:
    """Make one array of pixels, sharded as the mask; what is not written reads as "not measured".

    Args:
        group: The store's group.
        name: Of the array.
        shape: (y, x) or (class, y, x).
        spec: Sharding.
        dtype: `uint8` (fill `IGNORE_INDEX`) or a float type (fill NaN).
        overwrite: Delete what is there by that name, without reading it: it may be damaged.
    """
    from zarr.codecs import ZstdCodec

    lead = shape[:-2]
    # A micrograph smaller than a shard gets a smaller one: zarr holds a whole shard in memory to write it.
    sides = tuple(min(spec.shard, ceil_to(side, spec.chunk)) for side in shape[-2:])
    return group.create_array(
        name,
        shape=shape,
        shards=(*lead, *sides),
        chunks=(*(1 for _ in lead), spec.chunk, spec.chunk),
        dtype=dtype,
        fill_value=IGNORE_INDEX if dtype == "uint8" else float("nan"),
        compressors=[ZstdCodec(level=1, checksum=True)],
        config={"write_empty_chunks": True},
        dimension_names=("class", "y", "x")[-len(shape) :],
        overwrite=overwrite,
    )


def create_ledger(group: zarr.Group, name: str, spec: MaskSpec, between: tuple[int, ...]) -> None:
    """Make an array of the counts of each shard, one chunk a shard.

    Args:
        group: The store's group.
        name: Of the array.
        spec: Shards and classes.
        between: Axes between those of the shards and of the classes.
    """
    from zarr.codecs import Crc32cCodec

    own = (*between, len(spec.classes))
    group.create_array(
        name,
        shape=(*spec.shards, *own),
        chunks=(1, 1, *own),
        dtype="int64",
        fill_value=NOT_DONE,
        compressors=[Crc32cCodec()],
        config={"write_empty_chunks": True},
        dimension_names=("shard_y", "shard_x", *(["prediction"] if between else []), "class"),
    )
