"""Metrics of predicted masks against true masks, from a confusion matrix that can be merged in any order.

Counts are int64 and divided once at the end, so the result does not depend on the order of counting. Undefined values
(of a class that neither truth nor prediction contains) are nan, never 0 or 1, and are left out of means.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from microseg_ray.evaluation.metrics.undefined import none_if_undefined, ratio
from microseg_ray.settings import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from rich.table import Table

__all__ = ["ConfusionMatrix", "classification_report", "mean_of"]

_CHUNK = 1 << 20
_OVERALL_METRICS = ("pixel_accuracy", "mean_iou", "micro_iou")
_CLASS_SUMS = ("support", "withheld")
_CLASS_METRICS = ("iou", "precision", "recall", "f1")


class ConfusionMatrix:
    """Pixel counts by true class (rows) and predicted class (columns).

    Args:
        counts: Non-negative integers (K, K).
        withheld: Integers (K,): labelled pixels of each true class that were predicted as 255; zeros where None.
        withheld_is_wrong: Whether these count as wrong: as labelled pixels of their class that were given to no class.

    Attributes:
        counts: int64 (K, K).
        withheld: int64 (K,). Unless they count as wrong, no other figure counts these pixels, so they are stated beside each.

    Raises:
        ValueError: Not a square of non-negative integers, or more than 255 classes.

    Example:
        >>> matrix = ConfusionMatrix.zeros(2)
        >>> matrix.update(np.array([[0, 0, 1, 255]], np.uint8), np.array([[0, 1, 1, 1]], np.uint8))
        >>> matrix.counts.tolist(), matrix.iou.tolist()
        ([[1, 1], [0, 1]], [0.5, 0.5])
    """

    def __init__(
        self,
        counts: NDArray[np.integer[Any]],
        withheld: NDArray[np.integer[Any]] | None = None,
        *,
        withheld_is_wrong: bool = False,
    ) -> None:
        self.withheld_is_wrong = withheld_is_wrong
        if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or not 1 <= len(counts) <= IGNORE_INDEX:
            raise ValueError(f"a confusion matrix is (K, K) with K from 1 to {IGNORE_INDEX}, not {counts.shape}")
        if not np.issubdtype(counts.dtype, np.integer) or (counts < 0).any():
            raise ValueError("a confusion matrix holds counts: integers, none negative")
        self.counts: NDArray[np.int64] = counts.astype(np.int64)
        self.withheld: NDArray[np.int64] = (
            np.zeros(len(counts), np.int64) if withheld is None else withheld.astype(np.int64)
        )
        if self.withheld.shape != (len(counts),):
            raise ValueError(f"withheld pixels of shape {self.withheld.shape} for {len(counts)} classes")

    @classmethod
    def zeros(cls, classes: int, *, withheld_is_wrong: bool = False) -> ConfusionMatrix:
        """An empty matrix of `classes` classes.

        Example:
            >>> ConfusionMatrix.zeros(3).counts.sum().item()
            0
        """
        return cls(np.zeros((classes, classes), np.int64), withheld_is_wrong=withheld_is_wrong)

    @property
    def classes(self) -> int:
        """Number of classes."""
        return len(self.counts)

    def update(
        self,
        target: NDArray[np.generic],
        prediction: NDArray[np.generic],
        unmeasured: Literal["error", "ignore"] = "error",
    ) -> None:
        """Add the pixels of one pair of masks.

        Args:
            target: True classes, integers of any shape; 255 is not labelled and not counted.
            prediction: Predicted classes, integers of the same shape.
            unmeasured: What to do where a labelled pixel's prediction is 255: an `error`, or `ignore`: it is counted in
                `withheld` alone.

        Raises:
            ValueError: Shapes differ, not integers, or a value that is no class; then nothing is added.

        Example:
            >>> ConfusionMatrix.zeros(2).update(np.array([7]), np.array([0]))
            Traceback (most recent call last):
                ...
            ValueError: target holds the value 7 in 1 pixels: classes are 0 to 1, and 255 is not labelled; check ...
        """
        if target.shape != prediction.shape:
            raise ValueError(f"target of shape {target.shape} and prediction of {prediction.shape} do not match")
        truth, guess = _as_bytes(target, "target"), _as_bytes(prediction, "prediction")
        pairs = np.zeros(1 << 16, np.int64)
        for start in range(0, truth.size, _CHUNK):
            both = truth[start : start + _CHUNK].astype(np.uint16) << 8 | guess[start : start + _CHUNK]
            pairs += np.bincount(both, minlength=len(pairs))
        table = pairs.reshape(256, 256)
        table[IGNORE_INDEX] = 0
        withheld = np.zeros(self.classes, np.int64)
        if unmeasured == "ignore":
            withheld = table[: self.classes, IGNORE_INDEX].copy()
            table[: self.classes, IGNORE_INDEX] = 0
        for axis, name in ((1, "target"), (0, "prediction")):
            held = table.sum(axis=axis)
            strange = np.flatnonzero(held[self.classes :]) + self.classes
            if strange.size:
                value = int(strange[0])
                hint = " (not measured; unmeasured='ignore' leaves such pixels out)" if value == IGNORE_INDEX else ""
                raise ValueError(
                    f"{name} holds the value {value} in {held[value]} pixels{hint}: classes are 0 to {self.classes - 1}, "
                    f"and {IGNORE_INDEX} is not labelled; check the order and number of the classes"
                )
        self.counts += table[: self.classes, : self.classes]
        self.withheld += withheld

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        if not isinstance(other, ConfusionMatrix):
            return NotImplemented
        if other.classes != self.classes:
            raise ValueError(f"confusion matrices of {self.classes} and {other.classes} classes cannot be added")
        return ConfusionMatrix(
            self.counts + other.counts, self.withheld + other.withheld, withheld_is_wrong=self.withheld_is_wrong
        )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ConfusionMatrix)
            and np.array_equal(self.counts, other.counts)
            and np.array_equal(self.withheld, other.withheld)
        )

    __hash__ = None  # type: ignore[assignment]  # update() changes it

    def __repr__(self) -> str:
        return f"ConfusionMatrix({self.counts.tolist()})"

    @property
    def support(self) -> NDArray[np.int64]:
        """Labelled pixels of each class that count, int64 (K,): those with a prediction, or all if withheld is wrong.

        Example:
            >>> ConfusionMatrix(np.array([[3, 0], [0, 3]]), np.array([4, 0]), withheld_is_wrong=True).support.tolist()
            [7, 3]
        """
        totals: NDArray[np.int64] = self.counts.sum(axis=1)
        return totals + self.withheld if self.withheld_is_wrong else totals

    @property
    def coverage(self) -> float:
        """Share of the labelled pixels for which a class was predicted; nan where none is labelled.

        Example:
            >>> ConfusionMatrix(np.array([[3, 0], [0, 3]]), np.array([4, 0])).coverage
            0.6
        """
        covered = int(self.counts.sum())
        labelled = covered + int(self.withheld.sum())
        return covered / labelled if labelled else float("nan")

    @property
    def pixel_accuracy(self) -> float:
        """Share of `support` that is correct; nan where there is none."""
        total = int(self.support.sum())
        return int(np.trace(self.counts)) / total if total else float("nan")

    @property
    def iou(self) -> NDArray[np.float64]:
        """Intersection over union (Jaccard index) of each class, float64 (K,)."""
        return ratio(self._hits, self.support + self._predicted - self._hits)

    @property
    def precision(self) -> NDArray[np.float64]:
        """Precision of each class, float64 (K,); nan if it is never predicted."""
        return ratio(self._hits, self._predicted)

    @property
    def recall(self) -> NDArray[np.float64]:
        """Recall of each class, float64 (K,); nan if it does not occur in the truth."""
        return ratio(self._hits, self.support)

    @property
    def f1(self) -> NDArray[np.float64]:
        """F1 score (Dice coefficient) of each class, float64 (K,)."""
        return ratio(2 * self._hits, self.support + self._predicted)

    @property
    def mean_iou(self) -> float:
        """Mean of `iou` over the classes where it is defined; nan if there is none."""
        return _mean(self.iou)

    @property
    def micro_iou(self) -> float:
        """Micro-averaged intersection over union: a / (2 - a) for a pixel accuracy of a.

        Intersections and unions are summed over the classes before the division; each wrong pixel is a false positive of
        one class and a false negative of another. Rare, difficult classes lower it less than `mean_iou`. nan without
        labelled pixels.

        Example:
            >>> ConfusionMatrix(np.array([[3, 1], [0, 4]])).micro_iou == 7 / 9
            True
        """
        hits, total = int(np.trace(self.counts)), int(self.support.sum())
        return hits / (total + int(self.counts.sum()) - hits) if total else float("nan")

    @property
    def _hits(self) -> NDArray[np.int64]:
        return np.diagonal(self.counts)

    @property
    def _predicted(self) -> NDArray[np.int64]:
        totals: NDArray[np.int64] = self.counts.sum(axis=0)
        return totals

    def as_metrics(self, class_names: Sequence[str]) -> dict[str, Any]:
        """The metrics as in `metrics.json`: floats and integers, None for nan.

        Raises:
            ValueError: The number of names is not that of the classes.

        Example:
            >>> ConfusionMatrix(np.array([[2, 0], [0, 0]])).as_metrics(["clay", "pore"])["classes"]["pore"]["iou"]
        """
        _check_names(self, class_names)
        columns = {name: getattr(self, name) for name in _CLASS_METRICS}
        classes = {
            name: {key: none_if_undefined(values[index]) for key, values in columns.items()}
            | {"support": int(self.support[index])}
            for index, name in enumerate(class_names)
        }
        overall = {key: none_if_undefined(getattr(self, key)) for key in _OVERALL_METRICS}
        return overall | {"classes": classes}

    def with_coverage(self, class_names: Sequence[str]) -> dict[str, Any]:
        """`as_metrics` with the pixels that no figure counts: `coverage`, and `withheld` in all and of each class.

        Example:
            >>> figures = ConfusionMatrix(np.array([[3, 0], [0, 3]]), np.array([4, 0])).with_coverage(["clay", "pore"])
            >>> figures["pixel_accuracy"], figures["coverage"], figures["classes"]["clay"]["withheld"]
            (1.0, 0.6, 4)
        """
        metrics = self.as_metrics(class_names)
        classes = {
            name: figures | {"withheld": int(count)}
            for (name, figures), count in zip(metrics["classes"].items(), self.withheld, strict=True)
        }
        covered = {"coverage": none_if_undefined(self.coverage), "withheld": int(self.withheld.sum())}
        return metrics | covered | {"classes": classes}


def mean_of(metrics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Average the dictionaries of `as_metrics` over images, with equal weights.

    None (undefined in an image) is left out; a value that is undefined in all images stays None. `support` and `withheld`
    are summed.

    Example:
        >>> one, two = ConfusionMatrix(np.array([[1, 1], [0, 0]])), ConfusionMatrix(np.array([[1, 0], [0, 1]]))
        >>> both = mean_of([one.as_metrics(["clay", "pore"]), two.as_metrics(["clay", "pore"])])
        >>> both["pixel_accuracy"], both["classes"]["clay"]["support"]
        (0.75, 3)
    """
    names = dict.fromkeys(name for image in metrics for name in image["classes"])
    classes: dict[str, dict[str, Any]] = {}
    for name in names:
        held = [image["classes"][name] for image in metrics if name in image["classes"]]
        classes[name] = {key: _mean_defined([one[key] for one in held]) for key in _CLASS_METRICS}
        classes[name] |= {key: sum(one[key] for one in held) for key in _CLASS_SUMS if key in held[0]}
    overall = {key: _mean_defined([image[key] for image in metrics]) for key in _OVERALL_METRICS}
    if metrics and "coverage" in metrics[0]:
        overall["coverage"] = _mean_defined([image["coverage"] for image in metrics])
        overall["withheld"] = sum(image["withheld"] for image in metrics)
    return overall | {"classes": classes}


def classification_report(matrix: ConfusionMatrix, names: Sequence[str]) -> Table:
    """A table for the terminal: metrics per class, accuracy, macro and support-weighted averages.

    The numbers are those of scikit-learn's `classification_report` with `zero_division=nan`, plus the IoU.
    Undefined values are shown as `-` and left out of the averages.

    Raises:
        ValueError: The number of names is not that of the classes.

    Example:
        >>> table = classification_report(ConfusionMatrix(np.array([[3, 1], [0, 4]])), ["clay", "pore"])
        >>> table.row_count, [column.header for column in table.columns]
        (5, ['class', 'precision', 'recall', 'f1', 'iou', 'support'])
    """
    from rich.table import Table

    _check_names(matrix, names)
    columns = (matrix.precision, matrix.recall, matrix.f1, matrix.iou)
    table = Table(title="classification report")
    table.add_column("class")
    for header in ("precision", "recall", "f1", "iou", "support"):
        table.add_column(header, justify="right")
    for index, name in enumerate(names):
        table.add_row(name, *(_shown(values[index]) for values in columns), str(matrix.support[index]))
    table.add_section()
    total = str(matrix.support.sum())
    table.add_row("accuracy", "", "", _shown(matrix.pixel_accuracy), "", total)
    if matrix.withheld.any():
        table.add_row(f"withheld (predicted as {IGNORE_INDEX})", "", "", "", "", str(matrix.withheld.sum()))
    table.add_row("macro average", *(_shown(_mean(values)) for values in columns), total)
    table.add_row("weighted average", *(_shown(_mean(values, matrix.support)) for values in columns), total)
    return table


def _as_bytes(mask: NDArray[np.generic], name: str) -> NDArray[np.uint8]:
    if mask.dtype == np.bool_:
        return mask.ravel().view(np.uint8) if mask.flags.c_contiguous else mask.ravel().astype(np.uint8)
    if not np.issubdtype(mask.dtype, np.integer):
        raise ValueError(f"{name} is {mask.dtype}; a mask holds class indices, which are integers")
    if mask.dtype != np.uint8 and mask.size:
        for value in (int(mask.min()), int(mask.max())):
            if not 0 <= value <= IGNORE_INDEX:
                raise ValueError(f"{name} holds the value {value}; classes are 0 to {IGNORE_INDEX - 1}")
    return mask.ravel().astype(np.uint8, copy=False)


def _check_names(matrix: ConfusionMatrix, names: Sequence[str]) -> None:
    if len(names) != matrix.classes:
        raise ValueError(f"{len(names)} class names for {matrix.classes} classes")


def _mean(values: NDArray[np.float64], weights: NDArray[np.int64] | None = None) -> float:
    """Mean of the defined values, or nan. Unweighted if all weights are zero, as in scikit-learn."""
    defined = ~np.isnan(values)
    if not defined.any():
        return float("nan")
    scale = None if weights is None or not weights[defined].any() else weights[defined]
    return float(np.average(values[defined], weights=scale))


def _mean_defined(values: Sequence[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


def _shown(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"
