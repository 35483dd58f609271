"""The tasks of the tile job and their results: coordinates, counts and small means, never the pixels of a micrograph."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from microseg_ray.catalog import Reduced
    from microseg_ray.fence import Fence
    from microseg_ray.settings import Scaling, SourceSettings
    from microseg_ray.sources.specimen.profile import IntensitySample

__all__ = [
    "LookTask",
    "Member",
    "Pair",
    "ShardResult",
    "ShardTask",
    "SurveyTask",
    "Surveyed",
    "TileCounts",
    "TileRow",
    "Unusable",
]


@dataclass(frozen=True)
class Pair:
    """A micrograph and its mask.

    Attributes:
        name: Name of the micrograph in the store.
        image: Path of the micrograph.
        mask: Path of the mask; empty where the micrograph has none, so that its tiles are 255 throughout.
        group: Group that is never divided between splits.
        split: Name of the split.
        source: How the micrograph is opened.
    """

    name: str
    image: str
    mask: str
    group: str
    split: str
    source: SourceSettings


@dataclass(frozen=True)
class SurveyTask:
    """Read one pair, check it and count the classes of its tiles.

    Attributes:
        pair: The pair.
        tile: Side of a tile in pixels.
        overlap: Pixels that neighbouring tiles share, at least.
        classes: Number of classes.
        scaling: How intensities are scaled.
        fingerprint: How changes of the inputs are recognised, `stat` or `content`.
        audit: Whether the micrograph is also reduced for the leak audit.
    """

    pair: Pair
    tile: int
    overlap: int
    classes: int
    scaling: Scaling
    fingerprint: Literal["stat", "content"]
    audit: bool


@dataclass(frozen=True)
class TileCounts:
    """A tile in the specimen of its micrograph, and its pixels of each class."""

    y0: int
    x0: int
    counts: tuple[int, ...]


@dataclass(frozen=True)
class Surveyed:
    """A usable pair.

    Attributes:
        pair: The pair.
        fingerprints: Of the image and of the mask.
        shape: (height, width) of the specimen.
        channels: Channels of the micrograph.
        dtype: numpy name of its type.
        pixel_size_um: (y, x), None where unknown.
        notes: Notes on the pixel size.
        bar: Rows of the info bar.
        low: Intensity that is scaled to 0.
        high: Intensity that is scaled to 1.
        tiles: All tiles of the grid.
        reduced: Means for the leak audit, None without an audit.
        values: Each value of the mask and its number of pixels, in the specimen.
        intensities: Sample of the intensities after scaling.
        pages: Pages of the file, of which one is read.
    """

    pair: Pair
    fingerprints: tuple[str, str]
    shape: tuple[int, int]
    channels: int
    dtype: str
    pixel_size_um: tuple[float, float] | None
    notes: tuple[str, ...]
    bar: int
    low: float
    high: float
    tiles: tuple[TileCounts, ...]
    reduced: Reduced | None
    values: tuple[tuple[int, int], ...]
    intensities: IntensitySample
    pages: int = 1


@dataclass(frozen=True)
class Unusable:
    """A pair that cannot be used.

    Attributes:
        pair: The pair.
        fingerprints: Of the image and of the mask; empty for a file that cannot be read.
        stage: `mask`, `image` or `read`; `store` where nothing is wrong with it but the object store does not answer.
        reason: What is wrong.
    """

    pair: Pair
    fingerprints: tuple[str, str]
    stage: str
    reason: str


@dataclass(frozen=True)
class LookTask:
    """Reduce a micrograph that is in the store already, for the leak audit.

    Attributes:
        image: Path of the micrograph.
        source: How it is opened.
        scaling: How intensities are scaled.
    """

    image: str
    source: SourceSettings
    scaling: Scaling


@dataclass(frozen=True)
class TileRow:
    """A row of tiles.parquet.

    Attributes:
        index: Index of the tile in the store.
        micrograph: Name of its micrograph.
        group: Group of the micrograph.
        split: Split of the micrograph.
        y0: First row of the tile in the specimen.
        x0: First column.
        low: Intensity of the micrograph that is scaled to 0.
        high: Intensity that is scaled to 1.
        counts: Pixels of each class.
        ignored: Pixels without a class.

    Example:
        >>> row = TileRow(0, "a.tif", "a.tif", "train", 0, 32, 0.0, 255.0, (3, 1), 0)
        >>> [name for name in row.record() if name.startswith("count")]
        ['count_0', 'count_1', 'count_ignored']
    """

    index: int
    micrograph: str
    group: str
    split: str
    y0: int
    x0: int
    low: float
    high: float
    counts: tuple[int, ...]
    ignored: int

    def record(self) -> dict[str, str | int | float]:
        """The columns of the table in their order."""
        return {
            "index": self.index,
            "micrograph": self.micrograph,
            "group": self.group,
            "split": self.split,
            "y0": self.y0,
            "x0": self.x0,
            "low": self.low,
            "high": self.high,
            **{f"count_{index}": count for index, count in enumerate(self.counts)},
            "count_ignored": self.ignored,
        }


@dataclass(frozen=True)
class Member:
    """A tile of a shard: the index of its pair in the task, and its place in the specimen."""

    pair: int
    y0: int
    x0: int


@dataclass(frozen=True)
class ShardTask:
    """Write the tiles of one shard.

    Attributes:
        store: Folder of the unfinished store.
        parts: Tiles of each writing of the store.
        shard: Index of the shard.
        pairs: The pairs that its tiles come from.
        marks: The fingerprints of image and mask of each pair, from the survey.
        tiles: Its tiles, in order.
        fence: Keeps a worker that outlives its job from writing; None where this process holds the lock itself.
    """

    store: str
    parts: tuple[int, ...]
    shard: int
    pairs: tuple[Pair, ...]
    marks: tuple[tuple[str, str], ...]
    tiles: tuple[Member, ...]
    fence: Fence | None = None

    def writing(self) -> AbstractContextManager[None]:
        """What the write of the shard is wrapped in.

        Raises:
            FencedError: On entering: another job has begun to write there.
        """
        return nullcontext() if self.fence is None else self.fence.writing()


@dataclass(frozen=True)
class ShardResult:
    """Whether a shard was written.

    Attributes:
        reason: Why not; empty where it was.
        full: The disk is full.
        pair: The micrograph that is to blame; empty where none is.
        fenced: The job is over: another one writes here now.
    """

    reason: str = ""
    full: bool = False
    pair: str = ""
    fenced: bool = False
