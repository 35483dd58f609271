"""The evaluate job: true masks against predicted ones, or against what a checkpoint predicts."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.archive import ArchiveWorker, Run, ShardTask, engine_plan, worker_config
from microseg_ray.catalog import CatalogRow, Failure, build_catalog, write_failures
from microseg_ray.errors import InputError, MicrosegError, SettingsError
from microseg_ray.metrics import ConfusionMatrix, mean_of
from microseg_ray.models.card import read_card, read_card_and_digest
from microseg_ray.settings import (
    IGNORE_INDEX,
    ClassSpec,
    DataSettings,
    EvaluateSettings,
    SegmentSettings,
    settings_from,
)
from microseg_ray.sources import intensity_limits, list_files, open_prepared, read_mask
from microseg_ray.stores import MaskSpec

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Evaluation", "evaluate"]

Report = Callable[[int, int], None]
Pair = tuple[str, Callable[[], "NDArray[np.uint8]"], Path]


@dataclass(frozen=True)
class Evaluation:
    """What the evaluate job found.

    Attributes:
        pooled: Confusion of all pixels together, (true class, predicted class) int64.
        per_image: One confusion per micrograph, by name.
        classes: Names in the order of the class index.
        failures: Pairs that could not be compared.
    """

    pooled: ConfusionMatrix
    per_image: dict[str, ConfusionMatrix]
    classes: tuple[str, ...]
    failures: list[Failure]

    def document(self) -> dict[str, Any]:
        """metrics.json: figures over all pixels, and the mean of the figures of each micrograph."""
        return {
            "pooled": self.pooled.as_metrics(self.classes),
            "per_image": mean_of([matrix.as_metrics(self.classes) for matrix in self.per_image.values()]),
            "classes": list(self.classes),
            "micrographs": len(self.per_image),
            "confusion_matrix": self.pooled.counts.tolist(),
        }


def evaluate(settings: EvaluateSettings, report: Report = lambda *_: None) -> Evaluation:
    """Compare masks, pooled over all pixels and as the mean of per-image values.

    Args:
        settings: The job's settings.
        report: Told (done, total).

    Returns:
        The confusion matrices; metrics.json, per_image.csv and failures.csv are written to `settings.output`.

    Raises:
        InputError: There is nothing to compare.
        SettingsError: No class names, or a split that does not exist.
        CheckpointError: The checkpoint cannot be used.
    """
    classes = _classes(settings)
    rows, failures = _rows(settings)
    pairs = _predicted(settings, rows) if settings.checkpoint is not None else _given(rows)
    per_image: dict[str, ConfusionMatrix] = {}
    for done, (name, prediction, truth) in enumerate(pairs, 1):
        try:
            matrix = ConfusionMatrix.zeros(len(classes))
            matrix.update(*_same_shape(read_mask(truth), prediction(), truth), unmeasured="ignore")
            per_image[name] = matrix
        except (MicrosegError, ValueError, OSError) as error:
            failures.append(Failure(name, "evaluate", str(error)))
        report(done, len(rows))
    if not per_image:
        reasons = "; ".join(f"{failure.path}: {failure.reason}" for failure in failures[:3])
        raise InputError(settings.masks, f"no pair of masks could be compared ({reasons})", "see the reasons above")
    pooled = ConfusionMatrix.zeros(len(classes))
    for matrix in per_image.values():
        pooled = pooled + matrix
    result = Evaluation(pooled, per_image, tuple(item.name for item in classes), failures)
    _write(Path(settings.output), result)
    return result


def _classes(settings: EvaluateSettings) -> tuple[ClassSpec, ...]:
    if settings.classes:
        return settings.classes
    if settings.checkpoint is not None:
        return read_card(settings.checkpoint).classes
    if settings.predictions is not None and (Path(settings.predictions) / "run.json").exists():
        return Run.open(settings.predictions).classes
    return _unnamed_classes(settings)


def _unnamed_classes(settings: EvaluateSettings) -> tuple[ClassSpec, ...]:
    """Classes by their number, as many as the masks hold: where nobody names them, figures are still figures."""
    highest = 0
    for where in (settings.masks, settings.predictions):
        for path in list_files(where or ""):
            # A file that cannot be read is set aside, with its reason, when its pair is compared.
            with contextlib.suppress(InputError):
                values = np.unique(read_mask(path))
                highest = max(highest, int(values[values != IGNORE_INDEX].max(initial=0)))
    return tuple(ClassSpec(name=str(index)) for index in range(highest + 1))


def _rows(settings: EvaluateSettings) -> tuple[list[CatalogRow], list[Failure]]:
    """Pairs as catalog rows; for predicted masks the true mask stands in the image's place."""
    if settings.checkpoint is not None:
        data = settings.data
    else:
        predictions = settings.predictions
        if predictions is not None and (Path(predictions) / "run.json").exists():
            return _rows_of_run(settings, Run.open(predictions))
        data = DataSettings(
            **{
                **settings.data.model_dump(),
                "images": settings.masks,
                "masks": predictions,
                "image_suffix": settings.mask_suffix,
                "mask_suffix": settings.prediction_suffix,
            }
        )
    rows, failures = build_catalog(data)
    return _of_split(settings, rows), failures


def _rows_of_run(settings: EvaluateSettings, run: Run) -> tuple[list[CatalogRow], list[Failure]]:
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
    rows, failures = build_catalog(alone)
    paired = []
    for row in _of_split(settings, rows):
        key = row.image.stem.removesuffix(settings.mask_suffix)
        found = beside.get((Path(row.name).parent, key)) or anywhere.get(key, [])
        if len(found) == 1:
            paired.append(CatalogRow(row.name, row.image, run.store_path(found[0]), row.group, row.split))
        else:
            reason = f"two masks fit: {found[0]} and {found[1]}" if found else "no mask for it"
            failures.append(Failure(str(row.image), "evaluate", f"in the run {run.folder}: {reason}"))
    return paired, failures


def _of_split(settings: EvaluateSettings, rows: list[CatalogRow]) -> list[CatalogRow]:
    if settings.split is None:
        return rows
    chosen = [row for row in rows if row.split == settings.split]
    if not chosen:
        known = sorted({row.split for row in rows})
        raise SettingsError(
            f"evaluate.split: no micrograph is in split {settings.split!r}; there are {', '.join(known)}"
        )
    return chosen


def _given(rows: list[CatalogRow]) -> Iterator[Pair]:
    for row in rows:
        if row.mask is not None:
            yield row.name, partial(read_mask, row.mask), row.image


def _predicted(settings: EvaluateSettings, rows: list[CatalogRow]) -> Iterator[Pair]:
    """Masks that the checkpoint predicts, by the very steps of the segment job, in memory."""
    card, digest = read_card_and_digest(settings.checkpoint or "")
    chosen = {"archive": settings.images, "checkpoint": settings.checkpoint, "output": settings.output}
    chosen |= {name: getattr(settings, name) for name in ("tile", "halo", "precision", "threads")}
    engine = settings_from(SegmentSettings, chosen)
    plan = engine_plan(engine, card)
    worker = ArchiveWorker(worker_config(engine, card, digest, plan))

    def predict(path: Path) -> NDArray[np.uint8]:
        with open_prepared(path, card.scaling) as micrograph:
            worker.check(micrograph.info)
            shape, limits = micrograph.info.shape, intensity_limits(micrograph, card.scaling)
        spec = MaskSpec(shape, card.classes, plan.engine.shard)
        mask = np.empty(shape, np.uint8)
        for y, x in np.ndindex(*spec.shards):
            task = ShardTask(path.name, str(path), "", shape, limits, (y, x))
            mask[spec.box((y, x)).slices] = worker.compute(task)
        return mask

    try:
        for row in rows:
            if row.mask is not None:
                yield row.name, partial(predict, row.image), row.mask
    finally:
        worker.close()


def _same_shape(
    truth: NDArray[np.uint8], prediction: NDArray[np.uint8], where: Path
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    if truth.shape != prediction.shape:
        raise InputError(
            where,
            f"the mask is {truth.shape[0]} x {truth.shape[1]} px, the prediction {prediction.shape[0]} x {prediction.shape[1]}",
            "compare masks on the same pixel grid",
        )
    return truth, prediction


def _write(output: Path, result: Evaluation) -> None:
    output.mkdir(parents=True, exist_ok=True)
    unfinished = output / "metrics.json.partial"
    unfinished.write_text(json.dumps(result.document(), indent=2) + "\n", encoding="utf-8")
    unfinished.replace(output / "metrics.json")
    write_failures(output / "failures.csv", result.failures)
    import pyarrow as pa
    import pyarrow.csv

    table = []
    for name, matrix in result.per_image.items():
        figures = matrix.as_metrics(result.classes)
        line = {"micrograph": name, "pixel_accuracy": figures["pixel_accuracy"], "mean_iou": figures["mean_iou"]}
        line |= {f"iou_{key}": values["iou"] for key, values in figures["classes"].items()}
        table.append(line)
    pa.csv.write_csv(pa.Table.from_pylist(table), output / "per_image.csv")
