"""The mask of one micrograph on disk: an OME-Zarr label image with its ledger of counts beside it.

```
NAME.zarr/
  zarr.json      attributes: `microseg` (identity of the result), `ome` (label image, written when finished)
  0/             (y, x) uint8, fill 255, one zarr shard per unit of work
  1/ 2/ ...      mode-downsampled pyramid, written when finished
  counts/        (shard_y, shard_x, class) int64, one chunk per shard, written right after its mask shard
  margin/        optional extra outputs, one byte per pixel, sharded as the mask
  ensemble/      (shard_y, shard_x, checkpoint, class) int64: pixels by each checkpoint of an ensemble by itself, where there are
                 several; tta/ the same by each of the 8 symmetries; written before the counts
```

A counts chunk that is absent reads as -1 and means: this shard is not done. It is the ledger, the resume marker and
the statistics in one.
"""

from __future__ import annotations

import contextlib
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from microseg_ray.errors import UNREADABLE, StoreError
from microseg_ray.files import ObjectPath, delete_file, delete_folder, place
from microseg_ray.files.arrays import created_group, opened_group
from microseg_ray.outputs import require_store
from microseg_ray.runs.store.levels import BEGUN, Levels
from microseg_ray.runs.store.pyramid import build_pyramid, label_metadata, level_shapes, stale_levels
from microseg_ray.runs.store.shard_files import flush, held, shard_file
from microseg_ray.runs.store.spec import NOT_DONE, MaskSpec, create_ledger, create_pixels
from microseg_ray.settings import ClassSpec
from microseg_ray.statistics.counts import count_classes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import zarr
    from numpy.typing import NDArray

    from microseg_ray.files import Place, Where
    from microseg_ray.geometry import Box
    from microseg_ray.statistics.counts import SpreadKind, Spreads

__all__ = ["MaskStore"]


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
    def create(cls, path: Where, spec: MaskSpec, identity: Mapping[str, Any]) -> MaskStore:
        """Make an empty store, in place of any older one.

        Args:
            path: Folder or its address, its name ending in `.zarr`.
            spec: Shape, classes and sharding.
            identity: What the result is bound to (model digest, settings that change pixels, fingerprint of the input).
        """
        path = str(path)
        record: dict[str, Any] = {
            "identity": dict(identity),
            "shape": list(spec.shape),
            "shard": spec.shard,
            "extra": spec.extra,
            "classes": [item.model_dump() for item in spec.classes],
            **({"spreads": dict(spec.spreads)} if spec.spreads else {}),
        }
        if place(path).exists():
            require_store(path)
            delete_folder(path)
        group = created_group(path)
        create_pixels(group, "0", spec.shape, spec)
        create_ledger(group, "counts", spec, ())
        for kind, count in spec.spreads:
            create_ledger(group, kind, spec, (count,))
        if spec.extra in {"margin", "entropy"}:
            create_pixels(group, spec.extra, spec.shape, spec)
        elif spec.extra == "probabilities":
            create_pixels(group, spec.extra, (len(spec.classes), *spec.shape), spec, dtype="float16")
        # Last, so that a store whose making was cut short is no store.
        group.attrs.put({"microseg": record})
        return cls(path, group, spec, record)

    @classmethod
    def open(cls, path: Where) -> MaskStore:
        """Open a store that `create` made.

        Raises:
            StoreError: Nothing is there, or it is no mask store or a damaged one.
        """
        path = str(path)
        try:
            group = opened_group(path, "r+")
            record = cast("dict[str, Any]", group.attrs["microseg"])
            height, width = record["shape"]
            spec = MaskSpec(
                (int(height), int(width)),
                tuple(ClassSpec(**item) for item in record["classes"]),
                int(record["shard"]),
                record["extra"],
                tuple(record.get("spreads", {}).items()),
            )
            store = cls(path, group, spec, record)
            found = (store.mask.shape, str(store.mask.dtype), store._counts.shape)
        except FileNotFoundError as error:
            raise StoreError(f"{path}: no mask store is here; run the segment job that makes it") from error
        except UNREADABLE as error:
            raise StoreError(
                f"{path}: not a mask store of microseg_ray, or damaged ({error}); delete it and run segment again"
            ) from error
        if found != (spec.shape, "uint8", (*spec.shards, len(spec.classes))):
            raise StoreError(
                f"{path}: its arrays {found} are not what its attributes say; delete it and run segment again"
            )
        return store

    @property
    def identity(self) -> dict[str, Any]:
        """What the pixels are bound to."""
        return dict(self._record["identity"])

    @property
    def finished(self) -> bool:
        """Whether pyramid and OME metadata were written, after the last shard; read from disk."""
        return "ome" in self._attributes()

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
        return self._ledger(self._counts)

    @property
    def spreads(self) -> Spreads:
        """Pixels by each of several predictions, (shard_y, shard_x, members, class) int64; -1 in shards that are not done."""
        return {kind: self._ledger(self._array(kind)) for kind, _ in self.spec.spreads}

    def _ledger(self, array: zarr.Array[Any]) -> NDArray[np.int64]:
        try:
            return np.asarray(array[:], dtype=np.int64)
        except UNREADABLE:
            rows = np.full(array.shape, NOT_DONE, np.int64)
            for shard in self._shards():
                with contextlib.suppress(*UNREADABLE):
                    rows[shard] = np.asarray(array[shard])
            return rows

    def missing(self) -> list[tuple[int, int]]:
        """Shards without counts, or whose pixels are gone, in row-major order."""
        # In a store of a million shards that was hardly begun, a look at every ledger entry would take minutes.
        if not self._begun():
            return self._shards()
        counted: NDArray[np.bool_] = np.all(self.counts >= 0, axis=-1)
        for found in self.spreads.values():
            counted &= np.all(found >= 0, axis=(-2, -1))
        there = [held(self.path, array) for array in self._outputs()]
        return [shard for shard in self._shards() if not (counted[shard] and all(holds(shard) for holds in there))]

    def _begun(self) -> bool:
        """Whether the ledger has an entry at all."""
        folder = self._file(self._counts, (0, 0)).parent.parent.parent
        return folder.is_dir() and any(folder.iterdir())

    def commit(
        self,
        shard: tuple[int, int],
        mask: NDArray[np.uint8],
        extra: NDArray[Any] | None = None,
        spreads: Spreads | None = None,
    ) -> NDArray[np.int64]:
        """Write one whole shard, then its counts: after a crash it is either done or not.

        Args:
            shard: (y, x) index of the shard.
            mask: (y, x) uint8 of the shard's shape.
            extra: The shard's `spec.extra` output: (y, x) uint8, or (class, y, x) float16 probabilities.
            spreads: Pixels of the shard by each of several predictions; not needed where nothing was measured.

        Returns:
            (class,) int64 counts.

        Raises:
            StoreError: There is no such shard, the array is not the whole of it, or a value is no class; nothing was
                written then.
        """
        box = self.spec.box(shard)
        if (extra is None) != (self.spec.extra == "none"):
            raise StoreError(f"{self.path}: the store was made for extra={self.spec.extra!r}; give exactly that output")
        pixels: list[NDArray[Any]] = [mask] if extra is None else [mask, extra]
        arrays = self._outputs()
        for array, given in zip(arrays, pixels, strict=True):
            expected = (*array.shape[:-2], *box.shape)
            if given.shape != expected or given.dtype != array.dtype:
                raise StoreError(
                    f"{self.path}: shard {shard} of {array.basename!r} takes {array.dtype} {expected}, not {given.dtype} "
                    f"{given.shape}; only whole shards are written, so stitch all of its tiles first"
                )
        counts = count_classes(mask, len(self.spec.classes))
        spread = self._spread_rows(counts, spreads or {})
        # The old ledger entry goes first: from here until the new one stands the shard is "not done".
        self.forget(shard)
        for array, given in zip(arrays, pixels, strict=True):
            # The old shard goes too, because zarr cannot overwrite one whose index is corrupt.
            delete_file(self._file(array, shard))
            array[(..., *box.slices)] = given
            self._flush(array, shard)
        for kind, rows in spread.items():
            self._array(kind)[shard] = rows
        self._counts[shard] = counts
        return counts

    def _spread_rows(self, counts: NDArray[np.int64], spreads: Spreads) -> Spreads:
        """What is written of the predictions; each has counted the pixels of the mask, no more and no fewer."""
        rows: dict[SpreadKind, NDArray[np.int64]] = {}
        for kind, count in self.spec.spreads:
            own = spreads.get(kind, np.zeros((count, len(counts)), np.int64))
            if own.shape != (count, len(counts)) or (own.sum(axis=1) != counts.sum()).any():
                raise StoreError(
                    f"{self.path}: {kind} takes counts of {int(counts.sum())} pixels by each of {count} predictions, not "
                    f"{own.shape} with sums of {own.sum(axis=-1).tolist()}"
                )
            rows[kind] = own
        return rows

    def write(self, box: Box, mask: NDArray[np.uint8]) -> NDArray[np.int64]:
        """`commit` by position instead of by index.

        Raises:
            StoreError: `box` is not one whole shard; the message says which box to write.
        """
        return self.commit(self.spec.shard_of(box), mask)

    def read(self, box: Box) -> NDArray[np.uint8]:
        """Classes (y, x) of a box of the mask; 255 where no shard is committed.

        Raises:
            StoreError: A shard is damaged.
        """
        try:
            return np.asarray(self.mask[box.slices])
        except UNREADABLE as error:
            raise StoreError(
                f"{self.path}: the mask cannot be read at {box} ({error}); `microseg verify` names the damaged shards"
            ) from error

    def recount(self, shard: tuple[int, int]) -> bool:
        """Whether the counts of a done shard are those of its mask on disk."""
        try:
            pixels = self.read(self.spec.box(shard))
            return bool(np.array_equal(count_classes(pixels, len(self.spec.classes)), np.asarray(self._counts[shard])))
        except UNREADABLE:
            return False

    def forget(self, shard: tuple[int, int]) -> None:
        """Mark a shard as not done, so that the next run computes it again; the store is not finished any more."""
        self._unfinish()
        delete_file(self._file(self._counts, shard))

    def stale_levels(self) -> list[int]:
        """The levels of the pyramid that do not show the mask, or are damaged; none before the mask is finished."""
        return stale_levels(self._group, self.spec) if self.finished else []

    def unfinish(self) -> None:
        """Take the mask for one whose pyramid is still to be made; its shards stay."""
        self._unfinish()

    @property
    def levels(self) -> Levels:
        """The pyramid, to be made in pieces before `finish`."""
        return Levels(self.path, self._group, self.spec, self._record)

    def finish(self, pixel_size_um: tuple[float, float] | None, note: Mapping[str, Any], *, made: bool = False) -> None:
        """Write the pyramid and the OME-Zarr metadata; call it once the last shard is in.

        Args:
            pixel_size_um: (y, x) of the full resolution, or None.
            note: Goes into the `microseg` attribute beside the identity (verdict, seam measurements, calibration).
            made: The pyramid was made by `levels` already.

        Raises:
            StoreError: A shard is missing, or damaged on disk; damaged shards are missing from now on.
        """
        missing = self.missing()
        if missing:
            raise StoreError(f"{self.path}: {len(missing)} shards are not done yet, the first is {missing[0]}")
        if not made:
            self._unfinish()
            try:
                build_pyramid(self._group, self.spec)
            except UNREADABLE as error:
                raise self.damaged(error, self._shards()) from error
        elif any(self.levels.missing()):
            self._unfinish()
            raise StoreError(f"{self.path}: its pyramid lacks shards; run the same command again to make it anew")
        folder = place(self.path)
        for partial in () if isinstance(folder, ObjectPath) else folder.rglob("*.partial"):
            delete_file(partial)  # left by killed writers; no process writes here any more
        self._record = {**self._record, "note": dict(note)}
        ome = label_metadata(place(self.path).stem, self.spec, level_shapes(self.spec.shape), pixel_size_um)
        self._group.attrs.put({"microseg": self._record, "ome": ome})

    def damaged(self, error: Exception, shards: Iterable[tuple[int, int]]) -> StoreError:
        """What to say of a pyramid that cannot be made; damaged shards are missing from now on, and the pyramid is not begun.

        Args:
            error: Why a level below cannot be read.
            shards: The shards of the mask that it was made of.
        """
        found = [shard for shard in shards if not self.recount(shard)]
        for shard in found:
            self.forget(shard)
        self._unfinish()
        what = f"shards {found} are damaged on disk" if found else "a level of its pyramid is damaged on disk"
        return StoreError(f"{self.path}: {what} ({error}); run the same command again to compute them anew")

    def recalibrate(
        self, pixel_size_um: tuple[float, float], source: str, more: Mapping[str, Any] | None = None
    ) -> None:
        """Change the pixel size of a finished store; no pixel changes.

        Args:
            pixel_size_um: (y, x) of the full resolution.
            source: Where the value comes from.
            more: What else changes in the note.

        Raises:
            StoreError: The store is not finished.
        """
        if not self.finished:
            raise StoreError(f"{self.path}: not finished yet; run segment again with --pixel_size_um")
        note = {**self.note, "pixel_size_um": list(pixel_size_um), "pixel_size_source": source, **(more or {})}
        self._record = {**self._record, "note": note}
        ome = label_metadata(place(self.path).stem, self.spec, level_shapes(self.spec.shape), pixel_size_um)
        self._group.attrs.put({"microseg": self._record, "ome": ome})

    @property
    def note(self) -> dict[str, Any]:
        """The note that was given to `finish`."""
        return dict(self._record.get("note", {}))

    def _unfinish(self) -> None:
        """A pyramid must not outlive the pixels that it was made of, nor a part of it."""
        if {"ome", BEGUN} & set(self._attributes()):
            self._group.attrs.put({"microseg": self._record})

    def _attributes(self) -> Mapping[str, Any]:
        """As they are on disk now."""
        return opened_group(self.path, "r").attrs

    def _shards(self) -> list[tuple[int, int]]:
        return list(np.ndindex(*self.spec.shards))

    def _outputs(self) -> list[zarr.Array[Any]]:
        return [self.mask] if self.spec.extra == "none" else [self.mask, self._array(self.spec.extra)]

    def _file(self, array: zarr.Array[Any], shard: tuple[int, int]) -> Place:
        return shard_file(self.path, array, shard)

    def _flush(self, array: zarr.Array[Any], shard: tuple[int, int]) -> None:
        flush(self.path, self._file(array, shard))
