"""What is compared with what: true masks beside predicted ones, a run, or what a checkpoint predicts."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import zarr

from microseg_ray.catalog import Catalog, CatalogRow, build_catalog
from microseg_ray.errors import InputError, SettingsError
from microseg_ray.files import name_below, place
from microseg_ray.files.arrays import zarr_place
from microseg_ray.models.ensemble import describe, folders
from microseg_ray.quarantine import Failure
from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.settings import IGNORE_INDEX, ClassSpec, DataSettings, EvaluateSettings
from microseg_ray.sources import list_files, open_micrograph, read_mask
from microseg_ray.sources.agreement import class_order_objection, shape_objection

if TYPE_CHECKING:
    from collections.abc import Collection

    from numpy.typing import NDArray

    from microseg_ray.accounts import Account
    from microseg_ray.files import Place
    from microseg_ray.geometry import Box
    from microseg_ray.sources import Micrograph
    from microseg_ray.sources.choices import Parts

__all__ = ["Pair", "PairRows", "Sink", "given_pair", "pair_rows", "same_shape", "true_classes"]

Sink = Callable[["Box", "NDArray[np.floating[Any]]", "NDArray[np.uint8]"], None]
"""Called with a part of a micrograph: its box, probabilities (K, y, x), predicted mask (y, x)."""


@dataclass(frozen=True)
class Pair:
    """One micrograph to evaluate.

    Attributes:
        name: Name of the micrograph.
        truth: File of the true mask.
        predict: Called with the true mask and a sink; returns the predicted mask (y, x) uint8, and calls the sink with the
            probabilities if there are any and the sink is not None. Raises if the pair is unusable.
        open_image: Opens the micrograph for pictures; None if only masks are known.
        parts: Gives the pages of the micrograph, and which one is read; None if only masks are known.
    """

    name: str
    truth: Place
    predict: Callable[[NDArray[np.uint8], Sink | None], NDArray[np.uint8]]
    open_image: Callable[[], Micrograph] | None = None
    parts: Callable[[], Parts] | None = None

    def true_mask(self) -> NDArray[np.uint8]:
        """The true mask, of the page that is read.

        Raises:
            InputError: It cannot be used, or its pages are not the micrograph's.
        """
        return read_mask(self.truth) if self.parts is None else read_mask(self.truth, self.parts())


@dataclass(frozen=True)
class PairRows:
    """What there is to judge.

    Attributes:
        rows: Micrographs to be judged; `image` is the true mask where predicted masks are given.
        calibration: Micrographs of the split that thresholds and temperature are chosen on.
        reason: Why there are none.
        catalog: All that was listed.
        run: The run whose masks are judged, or None.
    """

    rows: list[CatalogRow]
    calibration: list[CatalogRow]
    reason: str
    catalog: Catalog
    run: Run | None = None

    @property
    def failures(self) -> list[Failure]:
        """Files that have no partner or cannot be judged."""
        return self.catalog.failures

    def accounts(self, used: Collection[str], *, images: bool) -> tuple[Account, ...]:
        """Files and masks, or masks and predictions: seen = used + set aside + not taken.

        Args:
            used: Names of the micrographs that were judged.
            images: Whether micrographs are listed, and not masks alone.
        """
        judged = {row.name for row in self.rows}
        other = tuple((row.name, "of another split") for row in self.catalog.rows if row.name not in judged)
        done = [row for row in self.rows if row.name in used]
        names = ("files", "masks") if images else ("masks", "predictions")
        found = self.catalog.accounts(done, self.failures, other)
        return tuple(replace(each, quantity=name) for each, name in zip(found, names, strict=False))


def pair_rows(settings: EvaluateSettings) -> PairRows:
    """List what is to be judged.

    Raises:
        InputError: Nothing is there.
        SettingsError: A split that does not exist.
    """
    run = None
    if settings.checkpoint is not None:
        catalog = build_catalog(settings.data)
    elif settings.predictions is not None and _is_run(settings.predictions):
        run = Run.open(settings.predictions)
        catalog = _rows_of_run(settings, run)
    else:
        changed = {
            "images": settings.masks,
            "masks": settings.predictions,
            "image_suffix": settings.mask_suffix,
            "mask_suffix": settings.prediction_suffix,
        }
        catalog = build_catalog(DataSettings(**{**settings.data.model_dump(), **changed}), outputs=True)
    rows = catalog.rows
    chosen = _of_split(settings.split, rows)
    calibration, reason = _calibration_rows(settings, rows, run)
    return PairRows(chosen, calibration, reason, catalog, run)


def true_classes(settings: EvaluateSettings) -> tuple[ClassSpec, ...]:
    """The classes as the user, the checkpoint, the run or, failing all these, the masks themselves name them."""
    known: tuple[ClassSpec, ...] = ()
    if settings.checkpoint is not None:
        known, where = describe(settings.checkpoint).card.classes, ", ".join(folders(settings.checkpoint))
    elif settings.predictions is not None and _is_run(settings.predictions):
        known, where = Run.open(settings.predictions).classes, settings.predictions
    if settings.classes and known:
        reason = class_order_objection(settings.classes, known, str(where))
        if reason:
            raise SettingsError(f"evaluate.classes: {reason}; correct `classes`")
    if settings.classes or known:
        return settings.classes or known
    return _unnamed_classes(settings)


def given_pair(row: CatalogRow, run: Run | None) -> Pair | None:
    """A true mask and a predicted one, with the probabilities beside it where a run kept them."""
    where = row.mask
    if where is None:
        return None

    def predict(truth: NDArray[np.uint8], sink: Sink | None) -> NDArray[np.uint8]:
        guess = same_shape(truth, read_mask(where), row.image)
        if run is not None and sink is not None:
            _pass_probabilities(where, guess, sink)
        return guess

    if run is None:
        return Pair(row.name, row.image, predict)
    name = name_below(where, run.folder / "masks").removesuffix(".zarr")
    image = place(str(run.document["archive"])) / name
    return Pair(row.name, row.image, predict, (lambda: open_micrograph(image)) if image.exists() else None)


def _is_run(predictions: str) -> bool:
    return (place(predictions) / "run.json").exists()


def same_shape(
    truth: NDArray[np.uint8], prediction: NDArray[np.uint8] | tuple[int, int], where: object
) -> NDArray[np.uint8]:
    """The prediction, if it lies on the truth's pixel grid.

    Args:
        truth: (y, x) true mask.
        prediction: (y, x) predicted mask, or the shape that it will have.
        where: File of the truth, for the message.

    Raises:
        InputError: The shapes differ.

    Example:
        >>> same_shape(np.zeros((2, 3), np.uint8), np.zeros((2, 4), np.uint8), "a.png")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.InputError: a.png: the mask is 2 x 3 px, the prediction 2 x 4; compare masks on the same pixel grid
    """
    shape = prediction if isinstance(prediction, tuple) else prediction.shape
    reason = shape_objection(truth.shape, shape, "the prediction")
    if reason:
        raise InputError(where, reason, "compare masks on the same pixel grid")
    return truth if isinstance(prediction, tuple) else prediction


def _pass_probabilities(path: Place, guess: NDArray[np.uint8], sink: Sink) -> None:
    spec = MaskStore.open(path).spec
    if spec.extra != "probabilities":
        return
    stored = cast("zarr.Array[Any]", zarr.open_group(zarr_place(path), mode="r")[spec.extra])
    for y, x in np.ndindex(*spec.shards):
        box = spec.box((y, x))
        sink(box, np.asarray(stored[(..., *box.slices)]), guess[box.slices])


def _unnamed_classes(settings: EvaluateSettings) -> tuple[ClassSpec, ...]:
    """Classes by their number, as many as the masks hold: without names the figures are computed all the same."""
    highest = 0
    for where in (settings.masks, settings.predictions):
        for path in list_files(where or ""):
            # A file that cannot be read is set aside, with its reason, when its pair is compared.
            with contextlib.suppress(InputError):
                values = np.unique(read_mask(path))
                highest = max(highest, int(values[values != IGNORE_INDEX].max(initial=0)))
    return tuple(ClassSpec(name=str(index)) for index in range(highest + 1))


def _rows_of_run(settings: EvaluateSettings, run: Run) -> Catalog:
    """A run's masks are named by their micrographs, suffix and all; the same subfolder comes first, as in the catalog."""
    anywhere: dict[str, list[str]] = defaultdict(list)
    beside: dict[tuple[Path, str], list[str]] = defaultdict(list)
    for name in run.names():
        key = Path(name).stem.removesuffix(settings.image_suffix)
        anywhere[key].append(name)
        beside[Path(name).parent, key].append(name)
    alone = settings.data.model_copy(
        update={"images": settings.masks, "masks": None, "mask_suffix": "", "image_suffix": ""}
    )
    truths = build_catalog(alone, outputs=True)
    paired = []
    elsewhere: dict[str, str] = {}
    for row in truths.rows:
        key = row.image.stem.removesuffix(settings.mask_suffix)
        found = beside.get((Path(row.name).parent, key)) or anywhere.get(key, [])
        if len(found) == 1:
            paired.append(CatalogRow(row.name, row.image, run.store_path(found[0]), row.group, row.split))
        elif settings.split in {None, row.split}:
            reason = f"two masks fit: {found[0]} and {found[1]}" if found else "no mask for it"
            truths.failures.append(Failure(str(row.image), "evaluate", f"in the run {run.folder}: {reason}"))
        else:
            elsewhere[str(row.image)] = row.name
    judged = {str(row.mask) for row in paired}
    without = tuple((name, "without a true mask") for name in run.names() if str(run.store_path(name)) not in judged)
    listed = tuple(path for path in truths.listed if path not in elsewhere)
    not_taken = (*truths.not_taken, *((name, "of another split") for name in elsewhere.values()))
    return Catalog(paired, truths.failures, listed, not_taken, (len(run.names()), without))


def _of_split(split: str | None, rows: list[CatalogRow]) -> list[CatalogRow]:
    if split is None:
        return rows
    chosen = [row for row in rows if row.split == split]
    if not chosen:
        known = sorted({row.split for row in rows})
        raise SettingsError(f"evaluate.split: no micrograph is in split {split!r}; there are {', '.join(known)}")
    return chosen


def _calibration_rows(
    settings: EvaluateSettings, rows: list[CatalogRow], run: Run | None
) -> tuple[list[CatalogRow], str]:
    """Thresholds and temperature are never chosen on what is judged: where that cannot be, they are not chosen."""
    split = settings.calibrate_split
    # Masks that were made from another run's have no probabilities of their own.
    pixels = {} if run is None else run.identity.pixels
    kept = pixels.get("extra") == "probabilities" and not {"postprocess", "threshold"} & set(pixels)
    if not settings.probabilities or not (settings.checkpoint is not None or kept):
        return [], "no probabilities: they take a checkpoint, or a run with extra: probabilities"
    if split is None:
        return [], "calibrate_split is none"
    if settings.split is None:
        return [], "split is not given, so that every micrograph is judged and none is left to choose on"
    if split == settings.split:
        return [], f"split {split} is the one that is judged"
    chosen = [row for row in rows if row.split == split]
    return chosen, "" if chosen else f"no micrograph is in split {split}"
