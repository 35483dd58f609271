"""The mask of one micrograph on disk: an OME-Zarr label image with its ledger of counts beside it.

```
NAME.zarr/
  zarr.json      attributes: `microseg` (identity of the result), `ome` (label image, written when finished)
  0/             (y, x) uint8, fill 255, one zarr shard per unit of work
  1/ 2/ ...      mode-downsampled pyramid, written when finished
  counts/        (shard_y, shard_x, class) int64, one chunk per shard, written right after its mask shard
  margin/        optional extra outputs, one byte per pixel, sharded as the mask
```

A counts chunk that is absent reads as -1 and means: this shard is not done. It is the ledger, the resume marker and
the statistics in one.
"""

from __future__ import annotations

import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec

from microseg_ray.errors import StoreError
from microseg_ray.settings import IGNORE_INDEX, ClassSpec
from microseg_ray.stores.mask_spec import MaskSpec, create_pixels
from microseg_ray.stores.pyramid import build_pyramid, label_metadata

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from microseg_ray.geometry import Box

__all__ = ["MaskStore", "count_classes"]

NOT_DONE = -1


def count_classes(mask: NDArray[np.uint8], classes: int) -> NDArray[np.int64]:
    """Pixels per class of a mask; `IGNORE_INDEX` counts for none.

    Args:
        mask: (y, x) uint8.
        classes: Number of classes.

    Returns:
        (classes,) int64.

    Raises:
        StoreError: A value is neither a class nor `IGNORE_INDEX`.

    Example:
        >>> count_classes(np.array([[0, 2], [2, 255]], np.uint8), classes=3).tolist()
        [1, 0, 2]
    """
    # One comparison per class is several times faster than numpy.bincount, which first makes 8 bytes of every pixel.
    counts = np.array([np.count_nonzero(mask == index) for index in range(classes)], dtype=np.int64)
    if int(counts.sum()) + np.count_nonzero(mask == IGNORE_INDEX) != mask.size:
        strange = sorted({int(value) for value in np.unique(mask)} - set(range(classes)) - {IGNORE_INDEX})
        raise StoreError(f"mask value {strange[0]} is no class: there are {classes} classes, 0 to {classes - 1}")
    return counts


class MaskStore:
    """One mask on disk; opened by path in each worker, never sent between processes.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> spec = MaskSpec((3, 4), (ClassSpec(name="matrix"), ClassSpec(name="pore")), shard=512)
        >>> store = MaskStore.create(f"{folder}/a.zarr", spec, identity={"model": "abc"})
        >>> store.missing()
        [(0, 0)]
        >>> store.commit((0, 0), np.eye(3, 4, dtype=np.uint8)).tolist()
        [9, 3]
        >>> store.missing(), int(store.counts.sum())
        ([], 12)
    """

    def __init__(self, path: str, group: zarr.Group, spec: MaskSpec, record: Mapping[str, Any]) -> None:
        self.path = path
        self.spec = spec
        self._group = group
        self._record = dict(record)

    @classmethod
    def create(cls, path: str | os.PathLike[str], spec: MaskSpec, identity: Mapping[str, Any]) -> MaskStore:
        """Make an empty store, in place of any older one.

        Args:
            path: Folder, its name ending in `.zarr`.
            spec: Shape, classes and sharding.
            identity: What the result is bound to (model digest, settings that change pixels, fingerprint of the input).
        """
        path = str(path)
        record = {
            "identity": dict(identity),
            "shape": list(spec.shape),
            "shard": spec.shard,
            "extra": spec.extra,
            "classes": [item.model_dump() for item in spec.classes],
        }
        if Path(path).exists():
            shutil.rmtree(path)
        group = zarr.create_group(path, attributes={"microseg": record})
        _pixel_array(group, "0", spec.shape, spec)
        group.create_array(
            "counts",
            shape=(*spec.shards, len(spec.classes)),
            chunks=(1, 1, len(spec.classes)),
            dtype="int64",
            fill_value=NOT_DONE,
            compressors=[Crc32cCodec()],
            config={"write_empty_chunks": True},
            dimension_names=("shard_y", "shard_x", "class"),
        )
        if spec.extra in {"margin", "entropy"}:
            _pixel_array(group, spec.extra, spec.shape, spec)
        elif spec.extra == "probabilities":
            _pixel_array(group, spec.extra, (len(spec.classes), *spec.shape), spec, dtype="float16")
        return cls(path, group, spec, record)

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> MaskStore:
        """Open a store that `create` made.

        Raises:
            StoreError: Nothing is there, or it is no mask store or a damaged one.
        """
        path = str(path)
        try:
            group = zarr.open_group(path, mode="r+")
            record = cast("dict[str, Any]", group.attrs["microseg"])
            height, width = record["shape"]
            spec = MaskSpec(
                (int(height), int(width)),
                tuple(ClassSpec(**item) for item in record["classes"]),
                int(record["shard"]),
                record["extra"],
            )
        except FileNotFoundError as error:
            raise StoreError(f"{path}: no mask store is here; run the segment job that makes it") from error
        except (KeyError, ValueError, TypeError) as error:
            raise StoreError(
                f"{path}: not a mask store of microseg_ray, or damaged ({error}); delete it and run segment again"
            ) from error
        return cls(path, group, spec, record)

    @property
    def identity(self) -> dict[str, Any]:
        """What the pixels are bound to."""
        return dict(self._record["identity"])

    @property
    def finished(self) -> bool:
        """Whether pyramid and OME metadata were written, after the last shard."""
        return "ome" in self._group.attrs

    @cached_property
    def mask(self) -> zarr.Array[Any]:
        """The (y, x) uint8 mask at full resolution; `IGNORE_INDEX` where not measured."""
        return self._array("0")

    @cached_property
    def _counts(self) -> zarr.Array[Any]:
        return self._array("counts")

    def _array(self, name: str) -> zarr.Array[Any]:
        # Not stored in the metadata, so it must be asked for at each opening: a shard of one value is still written.
        return cast("zarr.Array[Any]", self._group[name]).with_config({"write_empty_chunks": True})

    @property
    def counts(self) -> NDArray[np.int64]:
        """(shard_y, shard_x, class) int64, read from disk; -1 in shards that are not done.

        A chunk that fails its checksum counts as not done, so that it is computed again.
        """
        try:
            return np.asarray(self._counts[:], dtype=np.int64)
        except (ValueError, RuntimeError):
            rows = np.full(self._counts.shape, NOT_DONE, np.int64)
            for y, x in np.ndindex(*self.spec.shards):
                with contextlib.suppress(ValueError, RuntimeError):
                    rows[y, x] = np.asarray(self._counts[y, x])
            return rows

    def missing(self) -> list[tuple[int, int]]:
        """Shards that are not done, in row-major order."""
        done = (self.counts >= 0).all(axis=-1)
        return [(int(y), int(x)) for y, x in np.argwhere(~done)]

    def commit(
        self, shard: tuple[int, int], mask: NDArray[np.uint8], extra: NDArray[Any] | None = None
    ) -> NDArray[np.int64]:
        """Write one whole shard, then its counts: after a crash it is either done or not.

        Args:
            shard: (y, x) index of the shard.
            mask: (y, x) uint8 of the shard's shape.
            extra: The shard's `spec.extra` output: (y, x) uint8, or (class, y, x) float16 probabilities.

        Returns:
            (class,) int64 counts.

        Raises:
            StoreError: The array is not the whole shard, or holds a value that is no class.
        """
        box = self.spec.box(shard)
        if mask.shape != box.shape or mask.dtype != np.uint8:
            raise StoreError(
                f"{self.path}: shard {shard} takes a uint8 array of shape {box.shape}, not {mask.dtype} {mask.shape}; "
                "only whole shards are written, so stitch all of its tiles first"
            )
        if (extra is None) != (self.spec.extra == "none"):
            raise StoreError(f"{self.path}: the store was made for extra={self.spec.extra!r}; give exactly that output")
        counts = count_classes(mask, len(self.spec.classes))
        # The old ledger entry goes first: from here until the new one stands the shard is "not done". The old shard
        # goes too, because zarr cannot overwrite a shard whose index is corrupt.
        self._drop(self._counts, (*shard, 0))
        self._drop(self.mask, shard)
        self.mask[box.slices] = mask
        if extra is not None:
            array = self._array(self.spec.extra)
            key = shard if extra.ndim == 2 else (0, *shard)  # noqa: PLR2004 - (y, x) or (class, y, x)
            self._drop(array, key)
            array[(..., *box.slices)] = extra
        self._flush(shard)
        self._counts[shard] = counts
        return counts

    def write(self, box: Box, mask: NDArray[np.uint8]) -> NDArray[np.int64]:
        """`commit` by position instead of by index.

        Raises:
            StoreError: `box` is not one whole shard; the message says which box to write.
        """
        return self.commit(self.spec.shard_of(box), mask)

    def recount(self, shard: tuple[int, int]) -> bool:
        """Whether the counts of a done shard are those of its mask on disk."""
        try:
            pixels = np.asarray(self.mask[self.spec.box(shard).slices])
            return bool(np.array_equal(count_classes(pixels, len(self.spec.classes)), np.asarray(self._counts[shard])))
        except (StoreError, ValueError, RuntimeError):
            return False

    def forget(self, shard: tuple[int, int]) -> None:
        """Mark a shard as not done, so that the next run computes it again."""
        self._drop(self._counts, (*shard, 0))

    def finish(self, pixel_size_um: tuple[float, float] | None, note: Mapping[str, Any]) -> None:
        """Write the pyramid and the OME-Zarr metadata; call it once the last shard is in.

        Args:
            pixel_size_um: (y, x) of the full resolution, or None.
            note: Goes into the `microseg` attribute beside the identity (verdict, seam measurements, calibration).

        Raises:
            StoreError: A shard is missing.
        """
        from microseg_ray.stores.pyramid import build_pyramid, label_metadata

        missing = self.missing()
        if missing:
            raise StoreError(f"{self.path}: {len(missing)} shards are not done yet, the first is {missing[0]}")
        levels = build_pyramid(self._group, self.spec)
        self._sweep()
        self._record = {**self._record, "note": dict(note)}
        ome = label_metadata(Path(self.path).stem, self.spec, levels, pixel_size_um)
        self._group.attrs.put({"microseg": self._record, "ome": ome})

    def recalibrate(self, pixel_size_um: tuple[float, float], source: str) -> None:
        """Change the pixel size of a finished store; no pixel changes.

        Args:
            pixel_size_um: (y, x) of the full resolution.
            source: Where the value comes from.

        Raises:
            StoreError: The store is not finished.
        """
        from microseg_ray.stores.pyramid import label_metadata, level_shapes

        if not self.finished:
            raise StoreError(f"{self.path}: not finished yet; run segment again with --pixel_size_um")
        note = {**self.note, "pixel_size_um": list(pixel_size_um), "pixel_size_source": source}
        self._record = {**self._record, "note": note}
        ome = label_metadata(Path(self.path).stem, self.spec, level_shapes(self.spec.shape), pixel_size_um)
        self._group.attrs.put({"microseg": self._record, "ome": ome})

    @property
    def note(self) -> dict[str, Any]:
        """What `finish` was told."""
        return dict(self._record.get("note", {}))

    def _drop(self, array: zarr.Array[Any], key: tuple[int, ...]) -> None:
        chunk = self._file(array, key)
        chunk.unlink(missing_ok=True)

    def _file(self, array: zarr.Array[Any], key: tuple[int, ...]) -> Path:
        return Path(self.path) / array.basename / array.metadata.encode_chunk_key(key)

    def _flush(self, shard: tuple[int, int]) -> None:
        """Push the shard to the disk itself, so that a power cut cannot leave counts without their pixels."""
        path = self._file(self.mask, shard)
        for target in (path, path.parent):
            handle = os.open(target, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def _sweep(self) -> None:
        """Remove what killed writers left; nobody writes here any more."""
        for partial in Path(self.path).rglob("*.partial"):
            partial.unlink(missing_ok=True)
