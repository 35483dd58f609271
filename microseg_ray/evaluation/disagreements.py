"""Places where label and prediction disagree, the ones most worth looking at first: errors of the labels, or of the model.

A boundary that is a pixel or two off is a matter of taste, so that only what is thicker counts. Ranking by the model's own
confidence is what confident learning does (Northcutt, Jiang, Chuang, J. Artif. Intell. Res. 70, 2021), here for places
in place of examples: a model that is sure, of many pixels, and against the label is worth a look.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace
from itertools import count
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np

from microseg_ray.geometry import Box
from microseg_ray.settings import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from microseg_ray.evaluation.pairs import Pair, Sink
    from microseg_ray.settings import EvaluateSettings

__all__ = ["Disagreements", "Evidence", "Look", "Place", "Ranking", "places", "shown_box"]


@dataclass(frozen=True)
class Place:
    """Connected pixels (4 neighbours) of one label and one prediction, which differ.

    Attributes:
        box: Smallest box around it.
        label: Class index in the true mask.
        prediction: Class index that was predicted.
        pixel_count: Its pixels.
        core_pixel_count: Those of them that lie deeper in the disagreement than the tolerance.
        confidence: Mean predicted probability of the predicted class over its pixels; None without probabilities.
        label_probability: Mean predicted probability of the label's class.
        weight: Sum over the core of how much likelier the model holds its own class, in pixels; without probabilities
            the pixels of the core.
    """

    box: Box
    label: int
    prediction: int
    pixel_count: int
    core_pixel_count: int
    confidence: float | None
    label_probability: float | None
    weight: float


class Evidence:
    """Probabilities of predicted and labelled class at each pixel, in 255 steps: 2 bytes a pixel of the micrograph."""

    def __init__(self) -> None:
        self.predicted: NDArray[np.uint8] | None = None
        self.labelled: NDArray[np.uint8] | None = None

    def of(self, pair: Pair) -> Pair:
        """The same pair, whose probabilities are noted here on their way to the sink."""

        def predict(truth: NDArray[np.uint8], sink: Sink | None) -> NDArray[np.uint8]:
            if sink is None:
                return pair.predict(truth, None)

            def noted(box: Box, probabilities: NDArray[np.floating[Any]], guess: NDArray[np.uint8]) -> None:
                sink(box, probabilities, guess)
                self._note(truth, box, probabilities, guess)

            return pair.predict(truth, noted)

        return replace(pair, predict=predict)

    def _note(
        self, truth: NDArray[np.uint8], box: Box, probabilities: NDArray[np.floating[Any]], guess: NDArray[np.uint8]
    ) -> None:
        if self.predicted is None or self.labelled is None:
            self.predicted, self.labelled = np.zeros(truth.shape, np.uint8), np.zeros(truth.shape, np.uint8)
        for target, classes in ((self.predicted, guess), (self.labelled, truth[box.slices])):
            known = classes < len(probabilities)
            index = np.where(known, classes, 0)[None]
            found = np.take_along_axis(probabilities, index, axis=0)[0].astype(np.float32)
            target[box.slices] = np.where(known, np.rint(255 * found), 0)


def places(
    truth: NDArray[np.uint8], prediction: NDArray[np.uint8], evidence: Evidence, tolerance: int
) -> Iterator[Place]:
    """Places of one micrograph, in no order.

    Args:
        truth: (y, x) class indices; 255 is no label.
        prediction: (y, x) class indices; 255 is no prediction.
        evidence: Its probabilities, if there were any.
        tolerance: A pixel is of the core if all pixels of the micrograph up to so many steps (up, down, left, right) away
            disagree, too. A place without a core is a boundary and left out.

    Example:
        >>> truth = np.zeros((6, 8), np.uint8)
        >>> prediction = truth.copy()
        >>> prediction[1:4, 2:7] = 1
        >>> [(place.box, place.pixel_count, place.core_pixel_count) for place in places(truth, prediction, Evidence(), 1)]
        [(Box(y0=1, x0=2, y1=4, x1=7), 15, 3)]
    """
    from scipy import ndimage

    wrong = (truth != prediction) & (truth != IGNORE_INDEX) & (prediction != IGNORE_INDEX)
    core = ndimage.binary_erosion(wrong, iterations=tolerance, border_value=1) if tolerance else wrong
    kinds = np.unique(truth[core].astype(np.int64) << 8 | prediction[core])
    for label, guess in ((int(kind) >> 8, int(kind) & 255) for kind in kinds):
        labels, _ = ndimage.label(wrong & (truth == label) & (prediction == guess))
        kept = np.unique(labels[core & (labels > 0)])
        found = ndimage.find_objects(labels)
        for number in kept:
            yield _place(_Part(found[number - 1], labels, int(number)), (label, guess), core, evidence)


@dataclass(frozen=True, eq=False)
class _Part:
    """One component in an array of component numbers."""

    slices: tuple[slice, slice]
    labels: NDArray[np.int32]
    number: int


def _place(part: _Part, kind: tuple[int, int], core: NDArray[np.bool_], evidence: Evidence) -> Place:
    own = part.labels[part.slices] == part.number
    deep = own & core[part.slices]
    rows, columns = part.slices
    box = Box(rows.start, columns.start, rows.stop, columns.stop)
    weight, confidence, label_probability = float(deep.sum()), None, None
    if evidence.predicted is not None and evidence.labelled is not None:
        sure, labelled = (
            plane[part.slices].astype(np.float64) / 255 for plane in (evidence.predicted, evidence.labelled)
        )
        weight = float((sure - labelled)[deep].sum())
        confidence, label_probability = float(sure[own].mean()), float(labelled[own].mean())
    return Place(box, *kind, int(own.sum()), int(deep.sum()), confidence, label_probability, weight)


T = TypeVar("T")


class Ranking(Generic[T]):
    """The items of greatest weight; of two of one weight the earlier one.

    Args:
        limit: How many are kept.

    Example:
        >>> ranking: Ranking[str] = Ranking(2)
        >>> for weight, item in ((2.0, "a"), (5.0, "b"), (2.0, "c"), (3.0, "d")):
        ...     if ranking.takes(weight):
        ...         ranking.add(weight, item)
        >>> ranking.ordered()
        ['b', 'd']
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._order = count(0, -1)
        self._heap: list[tuple[float, int, T]] = []

    def takes(self, weight: float) -> bool:
        """Whether an item of this weight would be kept now."""
        return len(self._heap) < self._limit or (self._limit > 0 and weight > self._heap[0][0])

    def add(self, weight: float, item: T) -> None:
        """Take one item, which may push another one out."""
        if self._limit:
            push = heapq.heappush if len(self._heap) < self._limit else heapq.heappushpop
            push(self._heap, (weight, next(self._order), item))

    def ordered(self) -> list[T]:
        """The kept items, greatest weight first."""
        return [item for _, _, item in sorted(self._heap, key=itemgetter(0, 1), reverse=True)]


@dataclass(frozen=True, eq=False)
class Look:
    """A place as it is shown.

    Attributes:
        name: Name of the micrograph.
        place: What is shown.
        box: The part of the micrograph that is shown.
        truth: uint8 (y, x) of the box.
        prediction: uint8 (y, x) of the box.
        pixels: (c, y, x) of the micrograph in the box; None if only masks are known.
    """

    name: str
    place: Place
    box: Box
    truth: NDArray[np.uint8]
    prediction: NDArray[np.uint8]
    pixels: NDArray[Any] | None


class Disagreements:
    """Collects the places of all micrographs.

    Args:
        settings: `disagreements`, `boundary_tolerance`, `figures` and `pictures` count.
        classes: Names in the order of the class index.
    """

    def __init__(self, settings: EvaluateSettings, classes: tuple[str, ...]) -> None:
        self._classes = classes
        self._listed: Ranking[tuple[str, Place]] = Ranking(settings.disagreements)
        self._looks: Ranking[Look] = Ranking(min(settings.disagreements, settings.pictures) if settings.figures else 0)
        self._wanted = settings.disagreements > 0
        self._evidence = Evidence()

    def watch(self, pair: Pair) -> Pair:
        """The pair, watched for its probabilities; the next `add` is for it."""
        self._evidence = Evidence()
        return self._evidence.of(pair) if self._wanted else pair

    def add(self, pair: Pair, truth: NDArray[np.uint8], prediction: NDArray[np.uint8], tolerance: float) -> None:
        """Take the places of a micrograph.

        Args:
            pair: The micrograph, for its name and its pixels.
            truth: (y, x) class indices.
            prediction: (y, x) class indices.
            tolerance: Of boundaries, in pixels.

        Raises:
            MicrosegError: Its pixels cannot be read.
        """
        if not self._wanted:
            return
        found = sorted(places(truth, prediction, self._evidence, math.floor(tolerance)), key=lambda each: -each.weight)
        for place in found:
            self._listed.add(place.weight, (pair.name, place))
        for place in found:
            if not self._looks.takes(place.weight):
                break
            box = shown_box(place.box, (truth.shape[0], truth.shape[1]))
            parts = truth[box.slices].copy(), prediction[box.slices].copy()
            self._looks.add(place.weight, Look(pair.name, place, box, *parts, _pixels(pair, box)))

    def looks(self) -> list[Look]:
        """The first places of the list, as they are shown."""
        return self._looks.ordered()

    def rows(self) -> list[dict[str, Any]]:
        """Rows of disagreements.csv, greatest weight first."""
        return [
            {
                "rank": rank,
                "micrograph": name,
                **{key: getattr(place.box, key) for key in ("y0", "x0", "y1", "x1")},
                "label": self._classes[place.label],
                "prediction": self._classes[place.prediction],
                "pixel_count": place.pixel_count,
                "core_pixel_count": place.core_pixel_count,
                "confidence": place.confidence,
                "label_probability": place.label_probability,
                "weight": place.weight,
            }
            for rank, (name, place) in enumerate(self._listed.ordered(), 1)
        ]


def shown_box(box: Box, shape: tuple[int, int]) -> Box:
    """What is shown around a place: a square of 256 to 512 px with the place in its middle, moved into the micrograph.

    Example:
        >>> shown_box(Box(0, 100, 10, 120), (1000, 150))
        Box(y0=0, x0=0, y1=256, x1=150)
    """
    side = min(512, max(256, *(2 * length for length in box.shape)))
    ends = []
    for first, last, length in ((box.y0, box.y1, shape[0]), (box.x0, box.x1, shape[1])):
        start = min(max(0, (first + last - side) // 2), max(0, length - side))
        ends.append((start, min(length, start + side)))
    (y0, y1), (x0, x1) = ends
    return Box(y0, x0, y1, x1)


def _pixels(pair: Pair, box: Box) -> NDArray[Any] | None:
    if pair.open_image is None:
        return None
    with pair.open_image() as micrograph:
        return np.asarray(micrograph.read(box))
