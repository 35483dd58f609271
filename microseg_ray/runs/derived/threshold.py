"""A probability map and a threshold -> a mask and areas; a run and a threshold -> a run.

A pixel is of the class where its probability is **above** the threshold, strictly, as numpy's `probabilities > threshold`
says. Pixels without a probability (NaN) are 255: not measured, and in no area.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import zarr

from microseg_ray.accounts import ACCOUNTS_FILE, Account, counted, file_account, write_accounts
from microseg_ray.catalog import relative_name
from microseg_ray.errors import InputError, MicrosegError, RunMismatchError, SettingsError, StoreError
from microseg_ray.files import local_folder, sole_writer, whole, write_json
from microseg_ray.outputs import Kind, claim, settle
from microseg_ray.quarantine import Failure, stop_if_full, write_failures
from microseg_ray.recognition import is_record, read_record
from microseg_ray.runs.calibration import require_same_grid
from microseg_ray.runs.derived.base import open_masks, parent_record, refuse_harm
from microseg_ray.runs.folder import Run
from microseg_ray.runs.identity import RunIdentity
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.settings import IGNORE_INDEX, ClassSpec, default_color
from microseg_ray.sources import listing_root, survey_files
from microseg_ray.sources.probability_maps import MAP_SUFFIXES, PROBABILITY_SLACK, open_map
from microseg_ray.sources.scale.provenance import OPTION
from microseg_ray.statistics.areas import AreaRow, Measured, area_rows, write_areas
from microseg_ray.statistics.counts import count_classes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.settings.threshold import ThresholdSettings
    from microseg_ray.sources.probability_maps import ProbabilityMap

__all__ = ["Thresholded", "class_of_run", "threshold", "threshold_mask"]

Report = Callable[[int, int], None]

_REST, _ABOVE = "rest", "above"
_SHARD = 2048


@dataclass
class Thresholded:
    """The result of the threshold job.

    Attributes:
        folder: Where the masks and tables are.
        areas: The rows of areas.csv.
        failures: Maps or micrographs that could not be used.
        run: The new run, where a run was read.
        dropped: Files that showed older masks and were removed.
        accounts: Files and pixels: seen = used + set aside + not taken.
    """

    folder: Path
    areas: Sequence[AreaRow] = ()
    failures: list[Failure] = field(default_factory=list)
    run: Run | None = None
    dropped: list[str] = field(default_factory=list)
    accounts: list[Account] = field(default_factory=list)


def threshold_mask(
    probabilities: NDArray[np.floating[Any] | np.integer[Any]], threshold: float, scale: float = 1.0
) -> NDArray[np.uint8]:
    """1 where the probability is above the threshold, 0 where not, 255 where there is none (NaN).

    Args:
        probabilities: Of any shape. Half precision is compared in single precision.
        threshold: Compared strictly: a probability equal to it is not above it.
        scale: The value that means probability 1.

    Returns:
        uint8 of the same shape.

    Raises:
        ValueError: A value that is no probability.

    Example:
        >>> threshold_mask(np.array([0.2, 0.5, 0.7, np.nan]), 0.5).tolist()
        [0, 0, 1, 255]
        >>> threshold_mask(np.array([255, 127], np.uint8), 0.5, scale=255).tolist()
        [1, 0]
    """
    values: NDArray[Any] = probabilities.astype(np.float32) if probabilities.dtype == np.float16 else probabilities
    values = values if scale == 1 else values / scale  # numpy divides integers into float64
    unknown = np.isnan(values)
    inside = (values >= -PROBABILITY_SLACK) & (values <= 1 + PROBABILITY_SLACK) | unknown
    if not inside.all():
        wrong = probabilities[~inside].ravel()[0].item()
        raise ValueError(f"holds {wrong!r}, which is no probability from 0 to 1 (times scale {scale:g})")
    return np.where(unknown, np.uint8(IGNORE_INDEX), (values > threshold).astype(np.uint8))


def threshold(settings: ThresholdSettings, report: Report = lambda *_: None) -> Thresholded:
    """Write masks and areas.

    Args:
        settings: The job's settings.
        report: Called with (done, total) in maps, or in shards of a run.

    Raises:
        InputError: There is no map.
        StoreError: There is no run, or it kept no probabilities.
        SettingsError: The class is not one of the run's.
        RunMismatchError: The output holds other results, or another job is writing there.
    """
    output = Path(settings.output).absolute()
    with sole_writer(output):
        return _of_maps(settings, output, report) if settings.run is None else _of_run(settings, output, report)


def _of_maps(settings: ThresholdSettings, output: Path, report: Report) -> Thresholded:
    where = settings.probabilities or ""
    listing, root = survey_files(where, MAP_SUFFIXES), local_folder(listing_root(where), "threshold")
    files = [local_folder(file, "threshold") for file in listing.files]
    _claim(settings, output)
    targets = {target.relative_to(output).as_posix() for target in _targets(files, root, output, settings)}
    maps = Kind.STORE if settings.format == "zarr" else Kind.FILE
    claim(output, "threshold", dict.fromkeys(targets, maps))
    done, rows = Thresholded(output), list[AreaRow]()
    name = settings.class_name or _ABOVE
    specs = _two_classes(ClassSpec(name=name, color=default_color(1)))
    taken: dict[Path, Path] = {}
    pixels = 0
    for number, file in enumerate(files, 1):
        own = relative_name(file, root)
        try:
            target = _target(output, own, settings.format)
            if target in taken:
                raise InputError(file, f"its mask would replace that of {taken[target].name}", "rename one of the maps")
            taken[target] = file
            with open_map(file, settings.channel) as found:
                counts = _write(found, target, specs, settings)
                pixels += found.shape[0] * found.shape[1]
                given = settings.pixel_size_um is not None
                size = settings.pixel_size_um if given else found.pixel_size_um
                source = "option pixel_size_um" if given else found.pixel_size_source
            rows += area_rows(Measured(own, counts, size, source if size else "", ""), specs)
        except (MicrosegError, ValueError, OSError) as error:
            stop_if_full(error, output)
            done.failures.append(Failure(str(file), "threshold", str(error).removeprefix(f"{file}: ")))
        report(number, len(files))
    write_areas(output, rows)
    done.areas = rows
    write_failures(output / "failures.csv", done.failures)
    counted_pixels = sum(row.pixel_count for row in rows)
    done.accounts = [
        file_account(
            [str(file) for file in files],
            {str(root / row.micrograph) for row in rows},
            done.failures,
            counted(listing.not_taken),
        ),
        Account("pixels", pixels, counted_pixels, 0, {"without a probability (NaN)": pixels - counted_pixels}),
    ]
    write_accounts(output / ACCOUNTS_FILE, done.accounts)
    settle(output, "threshold")
    return done


def _targets(files: Iterable[Path], root: Path, output: Path, settings: ThresholdSettings) -> Iterator[Path]:
    for file in files:
        with contextlib.suppress(ValueError):
            yield _target(output, relative_name(file, root), settings.format)


def _claim(settings: ThresholdSettings, output: Path) -> None:
    """Results of two thresholds are never mixed."""
    path = output / "threshold.json"
    resolved = settings.resolved()
    kept = {
        key: resolved[key] for key in ("probabilities", "class_name", "channel", "threshold", "scale", "pixel_size_um")
    }
    if (output / "run.json").exists():
        raise RunMismatchError(f"{output}: holds a run; give another output for the masks of maps")
    files = ("threshold.json", "areas.csv", "areas.parquet", "failures.csv", ACCOUNTS_FILE)
    proven = is_record(path, "threshold", "scale")
    claim(output, "threshold", dict.fromkeys(files, Kind.FILE), proven=proven)
    made = (output / "masks").is_dir() and any(each.is_file() for each in (output / "masks").rglob("*"))
    older = None if settings.overwrite or not made else read_record(path, "threshold", "scale")
    if older is not None:
        differing = [key for key in kept if older.get(key) != kept[key]]
        if differing:
            raise RunMismatchError(
                f"{output}: holds masks made otherwise ({', '.join(differing)}), and results are never mixed; give another "
                "output, or --overwrite"
            )
    write_json(path, kept)


def _target(output: Path, name: str, kind: str) -> Path:
    suffix = {"png": ".png", "tiff": ".tif", "zarr": ".zarr"}[kind]
    return output / "masks" / Path(name).with_suffix(suffix)


def _two_classes(positive: ClassSpec) -> tuple[ClassSpec, ClassSpec]:
    return ClassSpec(name=_REST if positive.name != _REST else f"not {_REST}", color=default_color(0)), positive


def _write(
    found: ProbabilityMap, target: Path, specs: tuple[ClassSpec, ...], settings: ThresholdSettings
) -> NDArray[np.int64]:
    """Read, compare and write part by part; the counts."""
    target.parent.mkdir(parents=True, exist_ok=True)
    spec = MaskSpec(found.shape, specs, _SHARD)
    counts = np.zeros(len(specs), np.int64)
    store = (
        MaskStore.create(target, spec, {"map": found.path, "threshold": settings.threshold})
        if target.suffix == ".zarr"
        else None
    )
    whole = None if store is not None else np.empty(found.shape, np.uint8)
    for y, x in np.ndindex(*spec.shards):
        box = spec.box((y, x))
        try:
            mask = threshold_mask(found.read(box), settings.threshold, settings.scale)
        except ValueError as error:
            if isinstance(error, MicrosegError):
                raise
            raise InputError(
                found.path, str(error), "give --scale 255 for 8-bit maps, 65535 for 16-bit ones"
            ) from error
        counts += count_classes(mask, len(specs))
        if store is not None:
            store.commit((y, x), mask)
        elif whole is not None:
            whole[box.slices] = mask
    size = settings.pixel_size_um or found.pixel_size_um
    if store is not None:
        store.finish(size, {"pixel_size_um": None if size is None else list(size)})
    elif whole is not None:
        _save_image(target, whole, size)
    return counts


def _save_image(target: Path, mask: NDArray[np.uint8], size: tuple[float, float] | None) -> None:
    """PNG or TIFF of class indices, whole or not at all."""
    with whole(target) as partial:
        if target.suffix == ".png":
            from PIL import Image

            Image.fromarray(mask).save(partial, format="PNG")
            return
        import tifffile

        tifffile.imwrite(
            partial,
            mask,
            tile=(256, 256),
            compression="deflate",
            resolution=None if size is None else (1e4 / size[1], 1e4 / size[0]),
            resolutionunit=None if size is None else "CENTIMETER",
        )


def _of_run(settings: ThresholdSettings, output: Path, report: Report) -> Thresholded:
    parent = Run.open(settings.run or "")
    index = class_of_run(settings.class_name or "", parent, "threshold")
    refuse_harm(parent, output, "threshold")
    if settings.pixel_size_um is not None:
        require_same_grid(parent, settings.pixel_size_um, "threshold")
    chosen = {"class": parent.classes[index].name, "threshold": settings.threshold}
    pixels = {**parent.identity.pixels, "extra": "none", "threshold": chosen}
    identity = RunIdentity(parent.identity.model_digest, pixels)
    specs = _two_classes(parent.classes[index])
    record = {
        **parent_record(parent),
        "classes": [spec.model_dump() for spec in specs],
        "threshold": settings.resolved(),
    }
    run = Run.create(output, identity, record, overwrite=settings.overwrite)
    failures = parent.failures()
    failed = {failure.path for failure in failures}
    names = [name for name in parent.names() if name not in failed]
    done = Thresholded(output, failures=failures, run=run)
    for number, name in enumerate(names, 1):
        try:
            _derive(run, parent, name, index, settings)
        except (MicrosegError, ValueError, RuntimeError, OSError) as error:
            stop_if_full(error, output)
            done.failures.append(Failure(name, "threshold", str(error)))
            failed.add(name)
        report(number, len(names))
    done.dropped = run.drop_outdated()
    done.areas, done.accounts = run.write_tables([name for name in names if name not in failed], done.failures)
    return done


def class_of_run(name: str, parent: Run, job: str) -> int:
    """Which class of a run a name means, whatever its case; the run must have kept probabilities.

    Args:
        name: As the user wrote it.
        parent: The run.
        job: Whose setting it is, for the message.

    Raises:
        SettingsError: The class is not one of the run's.
        StoreError: It kept none.
    """
    wanted = name.strip().casefold()
    found = [index for index, spec in enumerate(parent.classes) if spec.name.strip().casefold() == wanted]
    if len(found) != 1:
        known = ", ".join(spec.name for spec in parent.classes)
        raise SettingsError(f"{job}.class_name: {name!r} is not one class of the run; it has {known}")
    if parent.identity.pixels.get("extra") != "probabilities" or "postprocess" in parent.identity.pixels:
        raise StoreError(
            f"{parent.folder}: this run kept no probabilities; segment with --extra probabilities, then give that run"
        )
    return found[0]


def _derive(run: Run, parent: Run, name: str, index: int, settings: ThresholdSettings) -> None:
    """One micrograph of the new run, or what is missing of it."""
    source, target = open_masks(run, parent, name)
    missing = target.missing()
    stored = cast("zarr.Array[Any]", zarr.open_group(source.path, mode="r")["probabilities"])
    for shard in missing:
        box = target.spec.box(shard)
        target.commit(shard, threshold_mask(np.asarray(stored[(index, *box.slices)]), settings.threshold))
    size, note = source.note.get("pixel_size_um"), source.note
    if settings.pixel_size_um is not None:
        rescaled = note.get("rescaled")
        factor = (1.0, 1.0) if rescaled is None else rescaled["factor"]
        size = [own * times for own, times in zip(settings.pixel_size_um, factor, strict=True)]
        note = {
            **note,
            "pixel_size_um": size,
            "pixel_size_source": OPTION if rescaled is None else f"{OPTION}, rescaled",
        }
        if rescaled is not None:
            note["rescaled"] = {**rescaled, "file_pixel_size_um": list(settings.pixel_size_um)}
    if missing or not target.finished or target.note != note:
        target.finish(None if size is None else (float(size[0]), float(size[1])), note)
