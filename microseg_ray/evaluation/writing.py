"""The tables of an evaluation folder, each whole or absent."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from microseg_ray.accounts import ACCOUNTS_FILE, write_accounts
from microseg_ray.errors import CheckpointError, ObjectStoreError
from microseg_ray.evaluation.confusions import CONFUSIONS_FILE, write_confusions
from microseg_ray.evaluation.documents import calibration_document, plain
from microseg_ray.evaluation.judged import JUDGED_FILE, write_judged
from microseg_ray.evaluation.metrics import CRITERIA, percentages
from microseg_ray.evaluation.metrics.resampling import OVERALL
from microseg_ray.files import ObjectPath, write_json
from microseg_ray.models.card import CARD_FILE, read_card
from microseg_ray.names import in_table
from microseg_ray.outputs import drop
from microseg_ray.quarantine import write_failures
from microseg_ray.tables import write_arrow_csv

if TYPE_CHECKING:
    from collections.abc import Mapping

    from microseg_ray.evaluation.metrics import Reliability
    from microseg_ray.evaluation.result import Evaluation
    from microseg_ray.files import Place

__all__ = ["write_back", "write_evaluation"]

_CURVE_POINTS = 256
_LOWEST_OCTAVE = 24
OWNER = "evaluate"
TABLES = (
    "metrics.json",
    "failures.csv",
    ACCOUNTS_FILE,
    "per_image.csv",
    "classes.csv",
    "areas.csv",
    "area_errors.csv",
    "confusion_matrix.csv",
    "confusion_matrix_normalised.csv",
    "reliability.csv",
    "precision_recall.csv",
    "thresholds.csv",
    "sections.csv",
    "temperature.json",
    CONFUSIONS_FILE,
    JUDGED_FILE,
    "metric_intervals.csv",
    "groups.csv",
    "comparison.csv",
    "disagreements.csv",
)


def write_evaluation(output: Place, result: Evaluation) -> None:
    """Write metrics.json and the tables.

    Args:
        output: Folder; made if need be. Files of an older evaluation that this one does not have are removed.
        result: What was found.
    """
    if not isinstance(output, ObjectPath):
        output.mkdir(parents=True, exist_ok=True)
    document = result.document()
    write_json(output / "metrics.json", document)
    write_failures(output / "failures.csv", result.failures)
    write_accounts(output / ACCOUNTS_FILE, result.accounts)
    _write_table(output / "per_image.csv", _per_image(result))
    _write_table(output / "classes.csv", _classes(result, document))
    _write_table(output / "areas.csv", _areas(result))
    _write_table(output / "area_errors.csv", _area_errors(result, document))
    _write_confusion(output, result)
    write_confusions(output / CONFUSIONS_FILE, result.per_image, result.groups, result.classes)
    write_judged(output, result.judged)
    optional: dict[str, list[dict[str, Any]]] = {
        "reliability.csv": _reliability(result),
        "precision_recall.csv": _curves(result),
        "thresholds.csv": _thresholds(result, document),
        "metric_intervals.csv": _intervals(document["intervals"]),
        "comparison.csv": _intervals(document["comparison"]),
        "groups.csv": _groups(result),
        "disagreements.csv": result.disagreements,
        "sections.csv": [{"micrograph": name, **asdict(row)} for name, rows in result.sections.items() for row in rows],
    }
    for name, rows in optional.items():
        if rows:
            _write_table(output / name, rows)
        else:
            drop(output, OWNER, [name])
    if result.calibration is None:
        drop(output, OWNER, ["temperature.json"])
    else:
        write_json(output / "temperature.json", calibration_document(result.calibration, result.classes))


def write_back(checkpoint: Place, result: Evaluation) -> None:
    """Put temperature and thresholds into a checkpoint's card, under `metrics.calibration`; the weights stay as they are.

    Args:
        checkpoint: The checkpoint's folder.
        result: With a calibration.

    Raises:
        CheckpointError: The card cannot be read or written.
    """
    if result.calibration is None:
        raise CheckpointError(f"{checkpoint}: nothing to write back, because nothing was calibrated")
    path = checkpoint / CARD_FILE
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        card["metrics"] = {
            **card.get("metrics", {}),
            "calibration": calibration_document(result.calibration, result.classes),
        }
        write_json(path, card)
    except ObjectStoreError:
        raise
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: cannot be written back to ({error}); check its permissions") from error
    read_card(checkpoint)  # raises here where the card cannot be read back


def _write_table(path: Place, rows: list[dict[str, Any]]) -> None:
    write_arrow_csv(path, pa.Table.from_pylist([in_table(row) for row in rows]))


def _per_image(result: Evaluation) -> list[dict[str, Any]]:
    table = []
    for name, tally in result.tallies.items():
        figures = tally.matrix.with_coverage(result.classes)
        shown = ("pixel_accuracy", "mean_iou", "micro_iou", "coverage", "withheld")
        line = {"micrograph": name, **{key: figures[key] for key in shown}}
        if result.reliability:
            line |= _calibration_of(result, name)
        line |= {f"iou_{key}": values["iou"] for key, values in figures["classes"].items()}
        line |= {f"boundary_f1_{key}": plain(tally.boundary.f1[index]) for index, key in enumerate(result.classes)}
        table.append(line)
    return table


def _calibration_of(result: Evaluation, name: str) -> dict[str, Any]:
    """Calibration of one micrograph: the mean confidence beside the accuracy, and the expected calibration error."""
    plain_one, tempered = result.reliability.get(name, (None, None))
    found: dict[str, Any] = {
        "mean_confidence": None if plain_one is None else plain(plain_one.mean_confidence()),
        "expected_calibration_error": None if plain_one is None else plain(plain_one.expected_error(0)),
    }
    if result.calibration is not None:
        found["expected_calibration_error_tempered"] = None if tempered is None else plain(tempered.expected_error(0))
    return found


def _groups(result: Evaluation) -> list[dict[str, Any]]:
    """Pooled figures of each group; nothing where each micrograph is a group of its own."""
    members: dict[str, list[str]] = {}
    for name in result.per_image:
        members.setdefault(result.groups.get(name, name), []).append(name)
    if len(members) == len(result.per_image):
        return []
    table = []
    for group in sorted(members):
        pooled = sum((result.per_image[name] for name in members[group][1:]), result.per_image[members[group][0]])
        figures = pooled.with_coverage(result.classes)
        keys = ("pixel_accuracy", "mean_iou", "micro_iou", "coverage", "withheld")
        line = {"group": group, "micrographs": len(members[group]), **{key: figures[key] for key in keys}}
        total = int(pooled.counts.sum())
        for index, name in enumerate(result.classes):
            line |= {f"{key}_{name}": figures["classes"][name][key] for key in ("iou", "f1")}
            for kind, axis in (("true", 1), ("predicted", 0)):
                pixels = int(pooled.counts.sum(axis=axis)[index])
                line[f"{kind}_fraction_{name}"] = pixels / total if total else None
        table.append(line)
    return table


def _intervals(document: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """A row per figure and class, `pooled` for figures of all classes."""
    if document is None:
        return []
    overall = [{"figure": name, "class": "pooled", **document[name]} for name in OVERALL]
    classes = [
        {"figure": figure, "class": name, **values}
        for name, figures in document["classes"].items()
        for figure, values in figures.items()
    ]
    return [{**row, "units": document["units"], "of": document.get("of")} for row in overall + classes]


def _classes(result: Evaluation, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    table = []
    for name in result.classes:
        line = {"class": name, **document["pooled"]["classes"][name]}
        line["iou_mean_of_images"] = document["per_image"]["classes"][name]["iou"]
        line["boundary_f1"] = document["boundary"]["pooled"]["classes"][name]["f1"]
        if document["scores"] is not None:
            figures = document["scores"]["classes"][name]
            line |= {key: figures[key] for key in ("aupr", "auc", "expected_calibration_error")}
        line |= {f"area_{key}": value for key, value in document["areas"]["classes"][name].items()}
        table.append(line)
    return table


def _areas(result: Evaluation) -> list[dict[str, Any]]:
    """Pixels, fractions and percent of each class in each micrograph, over the labelled pixels that have a prediction."""
    table = []
    for name, matrix in result.per_image.items():
        true, predicted = matrix.counts.sum(axis=1), matrix.counts.sum(axis=0)
        total = int(true.sum())
        percent = percentages(true), percentages(predicted)
        for index, class_name in enumerate(result.classes):
            fractions = [int(counts[index]) / total if total else None for counts in (true, predicted)]
            table.append(
                {
                    "micrograph": name,
                    "class_index": index,
                    "class_name": class_name,
                    "true_pixels": int(true[index]),
                    "predicted_pixels": int(predicted[index]),
                    "withheld_pixels": int(matrix.withheld[index]),
                    "true_fraction": fractions[0],
                    "predicted_fraction": fractions[1],
                    "difference": None if fractions[0] is None or fractions[1] is None else fractions[1] - fractions[0],
                    "true_percent": percent[0][index],
                    "predicted_percent": percent[1][index],
                }
            )
    return table


def _area_errors(result: Evaluation, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"class": name, **document["areas"]["classes"][name]} for name in result.classes]


def _write_confusion(output: Place, result: Evaluation) -> None:
    """Counts and shares of the true class, as two tables with the true classes down and the predicted ones across."""
    counts = result.pooled.counts
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
    for name, values in (("confusion_matrix.csv", counts), ("confusion_matrix_normalised.csv", shares)):
        rows = [
            {
                "true": true,
                **{f"predicted_{guess}": _cell(value) for guess, value in zip(result.classes, row, strict=True)},
            }
            for true, row in zip(result.classes, values.tolist(), strict=True)
        ]
        _write_table(output / name, rows)


def _cell(value: float) -> float | None:
    return None if value != value else value  # noqa: PLR0124 - nan, whether integer or float


def _reliability(result: Evaluation) -> list[dict[str, Any]]:
    scores = result.total.scores
    if scores is None:
        return []
    table = _bins(scores.reliability, ("predicted class", *result.classes), 1.0)
    if scores.tempered is not None and result.calibration is not None:
        table += _bins(scores.tempered, ("predicted class", *result.classes), result.calibration.temperature.value)
    return table


def _bins(reliability: Reliability, groups: tuple[str, ...], temperature: float) -> list[dict[str, Any]]:
    return [
        {
            "temperature": temperature,
            "of": name,
            "bin_low": float(reliability.edges[place]),
            "bin_high": float(reliability.edges[place + 1]),
            "pixels": int(reliability.counts[group, 0, place]),
            "mean_probability": plain(reliability.confidence(group)[place]),
            "observed": plain(reliability.observed(group)[place]),
        }
        for group, name in enumerate(groups)
        for place in range(reliability.counts.shape[2])
    ]


def _curves(result: Evaluation) -> list[dict[str, Any]]:
    """At the thresholds k/256, and below these at powers of two, for rare classes; the figures at these are exact."""
    scores = result.total.scores
    if scores is None:
        return []
    table = []
    low = 0.5 ** np.arange(_LOWEST_OCTAVE, np.log2(_CURVE_POINTS), -1)
    shown = np.concatenate([[0.0], low, np.arange(1, _CURVE_POINTS + 1) / _CURVE_POINTS])
    for index, name in enumerate(result.classes):
        curve = scores.histogram.curve(index)
        columns = {
            "precision": curve.precision,
            "recall": curve.recall,
            "f1": curve.score("f1"),
            "iou": curve.score("iou"),
        }
        for place in np.searchsorted(curve.thresholds, shown):
            line = {key: plain(values[place]) for key, values in columns.items()}
            table.append({"class": name, "threshold": float(curve.thresholds[place]), **line})
    return table


def _thresholds(result: Evaluation, document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Thresholds chosen on the calibration split, with their metrics there and on the evaluated split."""
    if result.calibration is None or document["scores"] is None:
        return []
    table = []
    for name in result.classes:
        there = document["calibration"]["thresholds"][name]
        here = document["scores"]["classes"][name]["chosen"]
        for criterion in CRITERIA:
            if there[criterion] is None:
                continue
            keys = (criterion, "precision", "recall", "accuracy")
            line = {"class": name, "criterion": criterion, "threshold": there[criterion]["threshold"]}
            line["chosen_on"] = result.calibration.split
            line |= {f"there_{'value' if key == criterion else key}": there[criterion][key] for key in keys}
            line |= {f"here_{'value' if key == criterion else key}": here[criterion][key] for key in keys}
            table.append(line)
    return table
