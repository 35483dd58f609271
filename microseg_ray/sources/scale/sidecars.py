"""What the microscope wrote into a text file beside the micrograph: JEOL and Hitachi `.txt`, TESCAN `.hdr`."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from microseg_ray.names import fits
from microseg_ray.sources.scale.grid import Grid
from microseg_ray.sources.scale.pixel_size import believable, best_of, micrometres
from microseg_ray.sources.scale.statement import StatedBar, Statement, fitted
from microseg_ray.sources.scale.vendor_tags import of_tescan_text

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["read_sidecar", "sidecars_of"]

_MAX_BYTES = 1 << 20


def sidecars_of(path: str) -> list[Path]:
    """The text files beside a local micrograph that may speak of it, those that exist.

    For `a.tif` they are `a.txt` and `a.tif.txt` (JEOL, Hitachi) and `a-tif.hdr` and `a.hdr` (TESCAN).

    Example:
        >>> sidecars_of("missing.tif"), sidecars_of("https://host/a.tif")
        ([], [])
    """
    if "://" in path:
        return []
    # Asked of every micrograph of an archive, twice: by system calls, because `Path` takes five times as long.
    folder, name = os.path.split(path)
    stem, suffix = os.path.splitext(name)  # noqa: PTH122
    names = (f"{stem}.txt", f"{stem}.TXT", f"{name}.txt", f"{stem}-{suffix[1:]}.hdr", f"{stem}.hdr")
    # On a case-insensitive file system a.txt and a.TXT are one file.
    unique: dict[tuple[int, int], str] = {}
    for each in names:
        if each != name and fits(each):
            with contextlib.suppress(OSError, ValueError):
                found = os.stat(f"{folder}/{each}" if folder else each)  # noqa: PTH116
                if stat.S_ISREG(found.st_mode):
                    unique[found.st_dev, found.st_ino] = each
    return sorted(Path(folder, each) for each in unique.values())


def read_sidecar(path: str, shape: tuple[int, int]) -> Statement:
    """What the sidecars of a micrograph say; a text that is none of the known kinds says nothing.

    A sidecar that describes an image of another size belongs to the micrograph before it was cropped or resized: see
    `fitted`.

    Args:
        path: The micrograph.
        shape: Its (height, width).
    """
    found = [_read(file, shape) for file in sidecars_of(path)]
    size = best_of([statement.pixel_size for statement in found])
    bar = next((statement.bar for statement in found if statement.bar is not None), None)
    return Statement(size, bar, tuple(note for statement in found for note in statement.notes))


def _read(file: Path, shape: tuple[int, int]) -> Statement:
    try:
        with file.open("rb") as handle:
            text = _decoded(handle.read(_MAX_BYTES))
    except OSError:
        return Statement()
    readers: tuple[Callable[[str, str, tuple[int, int]], Statement | None], ...] = (_jeol, _tescan, _hitachi)
    for reader in readers:
        try:
            statement = reader(text, file.name, shape)
        except (ArithmeticError, LookupError, ValueError):
            continue  # a text that cannot be understood says nothing; the pixels are still good
        if statement is not None:
            return statement
    return Statement()


def _decoded(content: bytes) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


def _jeol(text: str, name: str, shape: tuple[int, int]) -> Statement | None:
    """`$$SM_MICRON_MARKER 10um` over `$$SM_MICRON_BAR 180` px; else `$CM_PIXEL_SIZE 1.2nm`."""
    if "$CM_" not in text and "$$SM_" not in text:
        return None
    full = re.search(r"^\$CM_FULL_SIZE\s+(\d+)\s+(\d+)", text, re.MULTILINE)
    grid = bar = None
    if full is not None:
        # The scanned image; rows below it are the bar, of 64 rows to 960.
        rows = int(full[2])
        grid = Grid(int(full[1]), (rows, rows * 16 // 15))
        bar = StatedBar(rows // 15, f"JEOL $CM_FULL_SIZE ({name})", grid)
    marker = _quantity(text, r"^\$\$SM_MICRON_MARKER\s+([\d.]+)\s*(\S+)")
    pixels = re.search(r"^\$\$SM_MICRON_BAR\s+([\d.]+)", text, re.MULTILINE)
    by_bar = None if marker is None or pixels is None else marker / float(pixels[1])
    by_size = _quantity(text, r"^\$CM_PIXEL_SIZE\s+([\d.eE+-]+?)\s*([^\d\s.][^\s/]*)")
    claims = (
        believable(by_bar, by_bar, f"JEOL $$SM_MICRON_BAR ({name})", grid),
        believable(by_size, by_size, f"JEOL $CM_PIXEL_SIZE ({name})", grid),
    )
    return fitted(claims, bar, shape)


def _hitachi(text: str, name: str, shape: tuple[int, int]) -> Statement | None:
    """`PixelSize=` in nanometres, in the INI that Hitachi's SEMs write."""
    found = re.search(r"^PixelSize\s*=\s*([\d.eE+-]+)\s*$", text, re.MULTILINE)
    if found is None:
        return None
    scanned = re.search(r"^DataSize\s*=\s*(\d+)\s*x\s*(\d+)", text, re.MULTILINE)
    grid = None if scanned is None else Grid(int(scanned[1]), (int(scanned[2]),))
    size = micrometres(float(found[1]), "nm")
    return fitted([believable(size, size, f"Hitachi PixelSize ({name})", grid)], None, shape)


def _tescan(text: str, name: str, _shape: tuple[int, int]) -> Statement | None:
    if "[MAIN]" not in text or "PixelSizeX" not in text:
        return None
    size, bar = of_tescan_text(text, f" ({name})")
    return Statement(size, bar)


def _quantity(text: str, pattern: str) -> float | None:
    found = re.search(pattern, text, re.MULTILINE)
    return None if found is None else micrometres(float(found[1]), found[2])
