"""The probabilities that a run kept, as one file per micrograph and class: CSV, npy, TIFF or zarr.

What is written is what the model said, softmax of its logits in half precision: nothing is stretched, so that 0.5 means the
same in every map and a micrograph without the class has no pixel near 1. All formats hold the same numbers exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import zarr

from microseg_ray.accounts import ACCOUNTS_FILE, Account, file_account, write_accounts
from microseg_ray.errors import MicrosegError, RunMismatchError, SettingsError, StoreError
from microseg_ray.files import lies_in, sole_writer, whole, whole_folder, write_json
from microseg_ray.files.arrays import zarr_place
from microseg_ray.outputs import Kind, claim, settle
from microseg_ray.quarantine import Failure, stop_if_full, write_failures
from microseg_ray.recognition import is_only_zarr, is_record, read_record
from microseg_ray.runs.derived.threshold import class_of_run
from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from microseg_ray.settings import ProbabilitiesSettings

__all__ = ["WrittenMaps", "write_probabilities"]

_BAND = 512
_TILE = 256
_SUFFIXES = {"csv": ".csv", "npy": ".npy", "tiff": ".tif", "zarr": ".zarr"}


@dataclass
class WrittenMaps:
    """The result of the probabilities job.

    Attributes:
        folder: Where the maps are.
        maps: The files, or zarr folders.
        failures: Micrographs without maps.
        accounts: Files: seen = used + set aside + not taken.
    """

    folder: Path
    maps: list[Path] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)


def write_probabilities(
    settings: ProbabilitiesSettings, report: Callable[[int, int], None] = lambda *_: None
) -> WrittenMaps:
    """Write `maps/NAME_CLASS.csv` and so on; each has its micrograph's height and width, and values from 0 to 1.

    CSV has a line for each row of pixels, numbers parted by blanks, as `numpy.savetxt` writes and `numpy.loadtxt` reads; 17
    digits, so that a threshold gives the same mask from it as from the run.

    Args:
        settings: The job's settings.
        report: Called with (done, total) in micrographs.

    Raises:
        StoreError: There is no run, or it kept no probabilities.
        SettingsError: The class is not one of the run's, or the output lies in the run.
        RunMismatchError: The output holds the maps of another run.
    """
    run = Run.open(settings.run)
    names = [spec.name for spec in run.classes] if settings.class_name is None else [settings.class_name]
    wanted = [class_of_run(name, run, "probabilities") for name in names]
    output = Path(settings.output).absolute()
    if lies_in(output.resolve(), run.folder.resolve() / "masks"):
        raise SettingsError(f"probabilities.output: {output} lies in the run's masks; give another folder")
    done = WrittenMaps(output)
    with sole_writer(output):
        _claim(run, output, overwrite=settings.overwrite)
        failed = {failure.path: failure for failure in run.failures()}
        listed = run.names()
        done.failures += [failure for path, failure in failed.items() if path not in listed]
        taken: dict[Path, str] = {}
        used: list[str] = []
        for number, name in enumerate(listed, 1):
            stem = output / "maps" / Path(name).with_suffix("")
            try:
                if name in failed:
                    raise StoreError(failed[name].reason)
                if stem in taken:
                    raise StoreError(f"its maps would replace those of {taken[stem]}; rename one of the micrographs")
                taken[stem] = name
                done.maps += _write_one(run, name, wanted, stem, settings)
                used.append(name)
            except (MicrosegError, OSError, ValueError) as error:
                stop_if_full(error, output)
                done.failures.append(Failure(name, "probabilities", str(error)))
            report(number, len(listed))
        write_failures(output / "failures.csv", done.failures)
        listed_all = {*listed, *failed}
        done.accounts = [file_account(listed_all, used, done.failures, run.document.get("not_taken", {}))]
        write_accounts(output / ACCOUNTS_FILE, done.accounts)
        settle(output, "probabilities")
    return done


def _claim(run: Run, output: Path, *, overwrite: bool) -> None:
    """Maps of two models are never mixed."""
    path = output / "probabilities.json"
    record = {"run": str(run.folder), "identity": run.document["identity"]}
    entries = {
        f"maps/{Path(name).with_suffix('')}_{_own(run, index)}{_SUFFIXES[kind]}": Kind.STORE
        if kind == "zarr"
        else Kind.FILE
        for name in run.names()
        for index in range(len(run.classes))
        for kind in _SUFFIXES
    }
    files = ("probabilities.json", "failures.csv", ACCOUNTS_FILE)
    claim(
        output,
        "probabilities",
        {**entries, **dict.fromkeys(files, Kind.FILE)},
        proven=is_record(path, "run", "identity"),
    )
    made = (output / "maps").is_dir() and any(each.is_file() for each in (output / "maps").rglob("*"))
    if made and not overwrite and read_record(path, "run", "identity") not in (None, record):
        raise RunMismatchError(f"{output}: holds the maps of another run; give another output, or --overwrite")
    write_json(path, record)


def _own(run: Run, index: int) -> str:
    """What a class is called in a file name."""
    return "".join(sign if sign.isalnum() or sign in "-_" else "_" for sign in run.classes[index].name)


def _write_one(run: Run, name: str, wanted: list[int], stem: Path, settings: ProbabilitiesSettings) -> list[Path]:
    """All maps of one micrograph, each whole or absent."""
    store = MaskStore.open(run.store_path(name))
    if not store.finished or store.missing():
        raise StoreError("it is not finished in the run; run segment there again first")
    stored = cast("zarr.Array[Any]", zarr.open_group(zarr_place(store.path), mode="r")["probabilities"])
    kind = settings.format
    if kind == "auto":
        kind = "csv" if store.spec.shape[0] * store.spec.shape[1] <= settings.csv_pixels else "zarr"
    size = store.note.get("pixel_size_um")
    stem.parent.mkdir(parents=True, exist_ok=True)
    written = []
    for index in wanted:
        own = _own(run, index)
        target = stem.with_name(f"{stem.name}_{own}{_SUFFIXES[kind]}")
        # A map as zarr is a folder.
        with whole_folder(target, is_only_zarr) if kind == "zarr" else whole(target) as partial:
            _write_map(partial, kind, store.spec.shape, _bands(stored, index, store.spec.shape), size)
        written.append(target)
    return written


def _bands(stored: zarr.Array[Any], index: int, shape: tuple[int, int]) -> Iterator[tuple[int, NDArray[np.float16]]]:
    """First row and rows, top to bottom; averaged half-precision values may leave 0 to 1 by a last digit."""
    for y0 in range(0, shape[0], _BAND):
        yield y0, np.clip(np.asarray(stored[index, y0 : min(y0 + _BAND, shape[0]), :]), 0, 1)


def _write_map(
    path: Path,
    kind: str,
    shape: tuple[int, int],
    bands: Iterator[tuple[int, NDArray[np.float16]]],
    size: tuple[float, float] | None,
) -> None:
    match kind:
        case "csv":
            with path.open("w", encoding="ascii") as lines:
                for _, rows in bands:
                    np.savetxt(lines, rows.astype(np.float64), fmt="%.17g")
        case "npy":
            # Not through mapped memory: on a full disk that ends the process without a word.
            with path.open("wb") as file:
                header = {"descr": np.dtype(np.float16).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                for _, rows in bands:
                    file.write(np.ascontiguousarray(rows, np.float16).tobytes())
        case "tiff":
            _write_tiff(path, shape, bands, size)
        case _:
            side = min(_BAND, max(shape))
            array = zarr.create_array(
                str(path), shape=shape, chunks=(side, side), dtype="float16", dimension_names=["y", "x"]
            )
            for y0, rows in bands:
                array[y0 : y0 + len(rows)] = rows


def _write_tiff(
    path: Path,
    shape: tuple[int, int],
    bands: Iterator[tuple[int, NDArray[np.float16]]],
    size: tuple[float, float] | None,
) -> None:
    import tifffile

    def tiles() -> Iterator[NDArray[np.float32]]:
        for _, rows in bands:
            for y0 in range(0, len(rows), _TILE):
                for x0 in range(0, shape[1], _TILE):
                    part = rows[y0 : y0 + _TILE, x0 : x0 + _TILE].astype(np.float32)
                    yield np.pad(part, ((0, _TILE - part.shape[0]), (0, _TILE - part.shape[1])))

    tifffile.imwrite(
        path,
        tiles(),
        shape=shape,
        dtype=np.float32,
        tile=(_TILE, _TILE),
        compression="deflate",
        metadata=None,
        bigtiff=shape[0] * shape[1] > 1 << 29,
        resolution=None if size is None else (1e4 / size[1], 1e4 / size[0]),
        resolutionunit=None if size is None else "CENTIMETER",
    )
