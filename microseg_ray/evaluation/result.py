"""The result of the evaluate job; documents, tables and pictures are made of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from microseg_ray.evaluation.documents import boundary_document, calibration_document, scores_document
from microseg_ray.evaluation.judged import Judged
from microseg_ray.evaluation.metrics import (
    AreaErrors,
    ConfusionMatrix,
    area_fraction_errors,
    figure_intervals,
    mean_of,
    units_of,
)
from microseg_ray.names import text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from microseg_ray.accounts import Account
    from microseg_ray.evaluation.judging import Calibration, Tally
    from microseg_ray.evaluation.metrics import Reliability, Units
    from microseg_ray.evaluation.sections import SectionRow
    from microseg_ray.quarantine import Failure
    from microseg_ray.settings import ClassSpec

__all__ = ["Comparison", "Evaluation"]


@dataclass(frozen=True)
class Comparison:
    """This evaluation minus another one.

    Attributes:
        other: File of the other one.
        micrographs: How many both judged.
        only_here: Micrographs that only this one judged.
        only_there: Those that only the other one judged.
        figures: As `metrics.difference_intervals`.
    """

    other: str
    micrographs: int
    only_here: tuple[str, ...]
    only_there: tuple[str, ...]
    figures: Mapping[str, Any]

    def document(self) -> dict[str, Any]:
        """The comparison as plain JSON types."""
        return {
            "other": self.other,
            "micrographs": self.micrographs,
            "only_here": len(self.only_here),
            "only_there": len(self.only_there),
            **self.figures,
        }

    def notes(self) -> list[str]:
        """What was left out, for the console."""
        parts = (("here", self.only_here), ("there", self.only_there))
        return [
            f"comparison: {len(names)} micrographs were judged only {where} and are left out, such as {text(names[0])}"
            for where, names in parts
            if names
        ]


@dataclass(frozen=True)
class Evaluation:
    """The counts of an evaluation, from which all its figures follow.

    Attributes:
        pooled: Confusion of all pixels together, (true class, predicted class) int64.
        per_image: One confusion per micrograph, by name.
        classes: Names in the order of the class index.
        failures: Pairs that could not be compared.
        total: Everything that was counted over all pixels.
        tallies: What was counted, by micrograph, without scores.
        calibration: What was chosen on another split, or None.
        reason: Why nothing was chosen; empty otherwise.
        specs: The classes with their colours.
        sections: By micrograph, which sections hold which class, where that was asked for.
        boundary_tolerance: As it was set.
        split: Which micrographs were judged; None: all.
        notes: Notes on the figures: a named class without a true pixel, say.
        accounts: Files, masks and pixels: seen = used + set aside + not taken.
        groups: The group of each micrograph; without groups its own name.
        reliability: Of the probabilities, by micrograph: as predicted, and with the temperature or None.
        resamples: Of the bootstrap; 0 for no intervals.
        seed: Of the bootstrap.
        comparison: Differences to another evaluation, or None.
        disagreements: Places where label and prediction disagree, as in disagreements.csv.
        judged: The model, and how it was used.
    """

    pooled: ConfusionMatrix
    per_image: dict[str, ConfusionMatrix]
    classes: tuple[str, ...]
    failures: list[Failure]
    total: Tally
    tallies: dict[str, Tally]
    calibration: Calibration | None
    reason: str
    specs: tuple[ClassSpec, ...]
    sections: dict[str, list[SectionRow]] = field(default_factory=dict)
    boundary_tolerance: float | str = 2.0
    split: str | None = None
    notes: tuple[str, ...] = ()
    accounts: tuple[Account, ...] = ()
    groups: Mapping[str, str] = field(default_factory=dict)
    reliability: Mapping[str, tuple[Reliability, Reliability | None]] = field(default_factory=dict)
    resamples: int = 0
    seed: int = 0
    comparison: Comparison | None = None
    disagreements: list[dict[str, Any]] = field(default_factory=list)
    judged: Judged = field(default_factory=Judged)

    @cached_property
    def units(self) -> Units:
        """What is resampled: micrographs, or groups where there are any."""
        every = len(self.reliability) == len(self.per_image)
        gaps = {name: found.gaps() for name, (found, _) in self.reliability.items()} if every else None
        groups = {name: self.groups.get(name, name) for name in self.per_image}
        return units_of(self.per_image, groups, gaps)

    @cached_property
    def intervals(self) -> dict[str, Any] | None:
        """Every figure with its interval, as in metrics.json; None where none was asked for."""
        if not self.resamples:
            return None
        kind = "micrographs" if len(self.units.names) == len(self.per_image) else "groups"
        return {"of": kind, **figure_intervals(self.units, self.classes, self.resamples, self.seed)}

    @property
    def areas(self) -> AreaErrors:
        """True and predicted area fractions of the micrographs, and how they differ."""
        return area_fraction_errors(self.per_image)

    def document(self) -> dict[str, Any]:
        """metrics.json as plain JSON types; None for what is not defined."""
        scores = self.total.scores
        return {
            "pooled": self.pooled.with_coverage(self.classes),
            "per_image": mean_of([matrix.with_coverage(self.classes) for matrix in self.per_image.values()]),
            "classes": list(self.classes),
            "micrographs": len(self.per_image),
            "confusion_matrix": self.pooled.counts.tolist(),
            "split": self.split,
            "boundary": boundary_document(self.total, self.tallies.values(), self.boundary_tolerance, self.classes),
            "areas": self.areas.document(self.classes),
            "scores": None if scores is None else scores_document(scores, self.calibration, self.classes),
            "calibration": calibration_document(self.calibration, self.classes)
            if self.calibration is not None
            else {"split": None, "reason": self.reason},
            "intervals": self.intervals,
            "comparison": None if self.comparison is None else self.comparison.document(),
            "withheld": "wrong" if self.pooled.withheld_is_wrong else "left_out",
            "notes": list(self.notes),
            "accounting": [each.as_json() for each in self.accounts],
        }
