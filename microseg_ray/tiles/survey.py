"""The survey: every pair of micrograph and mask is read once, before anything is written."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.catalog import Reducer, reduce_micrograph
from microseg_ray.errors import InputError, MicrosegError
from microseg_ray.geometry import TileGrid
from microseg_ray.settings import IGNORE_INDEX, Scaling, SourceSettings
from microseg_ray.sources import fingerprint, intensity_limits, open_prepared, read_mask
from microseg_ray.statistics.counts import count_classes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.catalog import CatalogRow
    from microseg_ray.settings import TileSettings

__all__ = ["look_row", "mask_of", "source_of", "survey_request", "survey_row"]

_ROWS = 256  # rows of a mask that are counted at a time


def survey_request(row: CatalogRow, settings: TileSettings, *, audit: bool) -> dict[str, Any]:
    """What one survey needs to know, as plain JSON types."""
    return {
        "name": row.name,
        "image": str(row.image),
        "mask": str(row.mask),
        "group": row.group,
        "split": row.split,
        "tile": settings.tile,
        "overlap": settings.overlap,
        "classes": len(settings.classes),
        "scaling": settings.scaling.model_dump(),
        "source": source_of(row, settings).model_dump(),
        "fingerprint": settings.fingerprint,
        "audit": audit,
    }


def source_of(row: CatalogRow, settings: TileSettings) -> SourceSettings:
    """How a micrograph is opened: as the settings say, with the pixel size of the catalog's table where it gives one."""
    if row.pixel_size_um is None:
        return settings.source
    return settings.source.model_copy(update={"pixel_size_um": row.pixel_size_um})


def survey_row(request: dict[str, Any]) -> dict[str, Any]:
    """Look at one pair; what is wrong comes back as `reason`."""
    base = {key: request[key] for key in ("name", "image", "mask", "group", "split", "source")}
    try:
        return {**base, "reason": "", "stage": "", **_survey(request), "fingerprints": _fingerprints(request)}
    except MicrosegError as error:
        where = getattr(error, "where", "")
        stage = "mask" if where == request["mask"] else "image"
        reason = str(error).removeprefix(f"{request['image']}: ")
    except Exception as error:  # noqa: BLE001 - whatever a library raises on one pair must not cost the others
        reason, stage = f"{type(error).__name__}: {error}", "read"
    return {**base, "reason": reason, "stage": stage, "fingerprints": _fingerprints(request)}


def look_row(request: dict[str, Any]) -> dict[str, Any]:
    """A micrograph reduced, for the audit of a store that it is in already; empty where it cannot be read any more."""
    try:
        return {"reduced": reduce_micrograph(request["image"], SourceSettings(**request["source"])).packed()}
    except MicrosegError:
        return {}


def mask_of(path: str) -> NDArray[np.uint8]:
    """A mask, kept until the next is asked for: the shards of one huge micrograph follow each other. Read only."""
    return _kept_mask(path, fingerprint(path, "stat"))


@lru_cache(maxsize=1)
def _kept_mask(path: str, _fingerprint: str) -> NDArray[np.uint8]:
    mask = read_mask(path)
    mask.setflags(write=False)
    return mask


def _survey(request: dict[str, Any]) -> dict[str, Any]:
    mask = mask_of(request["mask"])
    scaling, source = Scaling(**request["scaling"]), SourceSettings(**request["source"])
    with open_prepared(request["image"], scaling, source) as micrograph:
        info = micrograph.info
        if mask.shape != info.shape:
            raise InputError(
                request["mask"],
                f"the mask is {mask.shape[0]} x {mask.shape[1]} px, its micrograph {info.shape[0]} x {info.shape[1]}",
                "export the mask at the micrograph's size, or correct mask_suffix if it belongs to another one",
            )
        # Rows of a burned-in info bar are no specimen: no tile reaches into them.
        frame = info.specimen
        strange = sorted(_values(mask[frame.slices]) - set(range(request["classes"])) - {IGNORE_INDEX})
        if strange:
            raise InputError(
                request["mask"],
                f"the mask holds the value {strange[0]}, but only classes 0 to {request['classes'] - 1} are named",
                f"name all classes, or set pixels without a class to {IGNORE_INDEX}",
            )
        tiles = []
        reducer = Reducer(frame.shape) if request["audit"] else None
        for member in _grid(frame.shape, request["tile"], request["overlap"]):
            # Finds damage and NaN now, while the store can still be laid out without it.
            pixels = micrograph.read(member.visible)
            if reducer is not None:
                reducer.add(member.core, pixels[(slice(None), *member.core.relative_to(member.visible).slices)])
            counts = count_classes(mask[member.visible.slices], request["classes"])
            tiles.append([member.box.y0, member.box.x0, *map(int, counts)])
        low, high = intensity_limits(micrograph, scaling)
    return {
        "shape": list(frame.shape),
        "channels": info.channels,
        "dtype": info.dtype,
        "pixel_size_um": info.pixel_size_um,
        "notes": list(info.pixel_size_notes),
        "bar": info.info_bar_rows,
        "low": low,
        "high": high,
        "tiles": tiles,
        "reduced": None if reducer is None else reducer.reduced().packed(),
    }


def _values(mask: NDArray[np.uint8]) -> set[int]:
    found = np.zeros(256, np.int64)
    for start in range(0, len(mask), _ROWS):
        found += np.bincount(mask[start : start + _ROWS].ravel(), minlength=256)
    return set(np.flatnonzero(found).tolist())


def _fingerprints(request: dict[str, Any]) -> list[str]:
    marks = []
    for key in ("image", "mask"):
        try:
            marks.append(fingerprint(request[key], request["fingerprint"]))
        except InputError:
            marks.append("")
    return marks


def _grid(shape: tuple[int, int], side: int, overlap: int) -> TileGrid:
    # An odd overlap is rounded up: neighbours share at least what was asked for.
    return TileGrid(shape, side, -(-overlap // 2) if -(-overlap // 2) * 2 < side else overlap // 2)
