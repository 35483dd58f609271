"""Divides micrographs into regions for train, val and test, as image and mask files with their table."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.accounts import ACCOUNTS_FILE, Account, write_accounts
from microseg_ray.catalog.build import build_catalog
from microseg_ray.catalog.rows import Catalog, CatalogRow
from microseg_ray.catalog.table import write_catalog
from microseg_ray.errors import InputError, SettingsError
from microseg_ray.files import sole_writer, whole
from microseg_ray.geometry import Box
from microseg_ray.names import below
from microseg_ray.outputs import Kind, claim, drop, settle
from microseg_ray.quarantine import Failure, stop_if_full, write_failures
from microseg_ray.settings import Scaling
from microseg_ray.sources import open_prepared, read_mask
from microseg_ray.symmetry import SYMMETRIES

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from microseg_ray.settings import DivideSettings
    from microseg_ray.settings.divide import Region

__all__ = ["Divided", "divide", "region_box", "symmetry_of"]

TABLE = "catalog.csv"


@dataclass
class Divided:
    """The result of the divide job.

    Attributes:
        folder: Where images, masks and the table are.
        rows: A row for each region, or symmetry of a region.
        failures: Micrographs that could not be divided.
        accounts: Files and masks: seen = used + set aside + not taken.
    """

    folder: Path
    rows: list[CatalogRow] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    accounts: tuple[Account, ...] = ()


def region_box(region: Region, whole: Box) -> Box:
    """The pixels of a region; regions that meet in their shares meet in their pixels.

    Args:
        region: Shares of height and width.
        whole: The specimen's part of the micrograph.

    Returns:
        Half-open; a border at share s lies at s times the length, halves rounded up.

    Example:
        >>> from microseg_ray.settings.divide import DEFECTSEGNET
        >>> [region_box(region, Box(0, 0, 2048, 2048)) for region in DEFECTSEGNET[2:]]  # doctest: +NORMALIZE_WHITESPACE
        [Box(y0=1024, x0=0, y1=2048, x1=1024), Box(y0=1024, x0=1024, y1=1536, x1=2048),
         Box(y0=1536, x0=1024, y1=2048, x1=2048)]
    """
    height, width = whole.y1 - whole.y0, whole.x1 - whole.x0
    y0, x0, y1, x1 = (
        math.floor(share * length + 0.5) for share, length in zip(region.box, (height, width) * 2, strict=True)
    )
    return Box(whole.y0 + y0, whole.x0 + x0, whole.y0 + y1, whole.x0 + x1)


def symmetry_of(pixels: NDArray[Any], symmetry: int) -> NDArray[Any]:
    """One of the 8 symmetries of the square, numbered as in `SYMMETRIES`.

    Args:
        pixels: (..., y, x) of any type.
        symmetry: 0 (identity) to 7; odd ones swap the two sides.

    Example:
        >>> symmetry_of(np.array([[1, 2], [3, 4]]), 1).tolist()
        [[2, 4], [1, 3]]
    """
    return SYMMETRIES[symmetry].apply(pixels)


def divide(settings: DivideSettings, report: Callable[[int, int], None] = lambda *_: None) -> Divided:
    """Write the regions of all micrographs; the table last, so that it is there only when they are.

    Args:
        settings: The job's settings.
        report: Called with (done, total) in micrographs.

    Returns:
        Rows in the order of the table. Each region is a group of its own: its symmetries stay together.

    Raises:
        SettingsError: There are no masks to be had, or the output holds regions already.
        InputError: There are no micrographs.
        RunMismatchError: Another job is writing into the output, or something there is not ours.
    """
    output = Path(settings.output).absolute()
    _refuse_finished(output, settings)
    found = build_catalog(settings.data)
    with sole_writer(output):
        # Again: another job may have come to its end meanwhile.
        _refuse_finished(output, settings)
        return _divide(settings, output, found, report)


def _refuse_finished(output: Path, settings: DivideSettings) -> None:
    if (output / TABLE).exists() and not settings.overwrite:
        raise SettingsError(f"divide.output: {output / TABLE} exists; give another folder, or --overwrite")


def _divide(settings: DivideSettings, output: Path, found: Catalog, report: Callable[[int, int], None]) -> Divided:
    rows, failures = found.rows, found.failures
    _claim(settings, output, rows)
    done = Divided(output, failures=failures)
    taken: dict[str, CatalogRow] = {}
    used: list[CatalogRow] = []
    for number, row in enumerate(rows, 1):
        stem = _stem(row)
        try:
            _refuse_taken(row, taken.setdefault(stem, row))
            done.rows += _divide_one(row, stem, output, settings)
            used.append(row)
        except (InputError, OSError) as error:
            stop_if_full(error, output)
            done.failures.append(Failure(str(row.image), "divide", str(error).removeprefix(f"{row.image}: ")))
        report(number, len(rows))
    if not done.rows:
        raise InputError(output, "no micrograph could be divided", "; ".join(item.reason for item in failures[:3]))
    write_failures(output / "failures.csv", done.failures)
    done.accounts = found.accounts(used, done.failures)
    write_accounts(output / ACCOUNTS_FILE, done.accounts)
    write_catalog(output / TABLE, done.rows)
    settle(output, "divide")
    return done


def _stem(row: CatalogRow) -> str:
    return PurePosixPath(below(row.name)).with_suffix("").as_posix()


def _copies(region: Region, settings: DivideSettings) -> list[str]:
    """What the names of a region's symmetries end in."""
    every = len(SYMMETRIES) if settings.symmetries and region.split == "train" else 1
    return [f"_s{symmetry}" for symmetry in range(every)] if every > 1 else [""]


def _claim(settings: DivideSettings, output: Path, rows: list[CatalogRow]) -> None:
    names = [
        f"{_stem(row)}_{region.name}{copy}"
        for row in rows
        for region in settings.regions
        for copy in _copies(region, settings)
    ]
    files = [
        TABLE,
        "failures.csv",
        ACCOUNTS_FILE,
        *(f"images/{name}.tif" for name in names),
        *(f"masks/{name}.png" for name in names),
    ]
    claim(output, "divide", dict.fromkeys(files, Kind.FILE))
    drop(output, "divide")


def _refuse_taken(row: CatalogRow, first: CatalogRow) -> None:
    if first is not row:
        raise InputError(row.image, f"its regions would replace those of {first.name}", "rename one of them")


def _divide_one(row: CatalogRow, stem: str, output: Path, settings: DivideSettings) -> list[CatalogRow]:
    rows = []
    with open_prepared(row.image, Scaling(), settings.source) as micrograph:
        mask = None if row.mask is None else read_mask(row.mask, micrograph.info.parts)
        if mask is not None and mask.shape != micrograph.info.shape:
            reason = f"the mask is {mask.shape[0]} x {mask.shape[1]} px, the micrograph {micrograph.info.shape[0]} x "
            raise InputError(row.image, f"{reason}{micrograph.info.shape[1]}", "give the mask that belongs to it")
        size = row.pixel_size_um or micrograph.info.pixel_size_um
        for region in settings.regions:
            box = region_box(region, micrograph.info.specimen)
            if box.y0 == box.y1 or box.x0 == box.x1:
                raise InputError(row.image, f"too small: region {region.name} has no pixel", "leave it out")
            pixels = micrograph.read(box)
            for symmetry, copy in enumerate(_copies(region, settings)):
                name = f"{stem}_{region.name}{copy}"
                image, label = output / "images" / f"{name}.tif", output / "masks" / f"{name}.png"
                turned = size if size is None or symmetry % 2 == 0 else (size[1], size[0])
                _write_image(image, symmetry_of(pixels, symmetry), turned)
                if mask is not None:
                    _write_mask(label, symmetry_of(mask[box.slices], symmetry))
                group = f"{stem}_{region.name}"
                rows.append(
                    CatalogRow(
                        f"images/{name}.tif", image, label if mask is not None else None, group, region.split, turned
                    )
                )
    return rows


def _write_image(path: Path, pixels: NDArray[Any], size: tuple[float, float] | None) -> None:
    """(channel, y, x) as a tiled TIFF with its pixel size, whole or not at all."""
    import tifffile

    gray = pixels.shape[0] == 1
    with whole(path) as partial:
        tifffile.imwrite(
            partial,
            np.ascontiguousarray(pixels[0] if gray else np.moveaxis(pixels, 0, -1)),
            photometric="minisblack" if gray else "rgb",
            tile=(256, 256),
            compression="deflate",
            metadata=None,
            resolution=None if size is None else (1e4 / size[1], 1e4 / size[0]),
            resolutionunit=None if size is None else "CENTIMETER",
        )


def _write_mask(path: Path, labels: NDArray[np.uint8]) -> None:
    from PIL import Image

    with whole(path) as partial:
        Image.fromarray(np.ascontiguousarray(labels)).save(partial, format="PNG")
