"""The evaluate job: true masks against predicted ones, or against what a checkpoint predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.accounts import Account
from microseg_ray.errors import InputError, MicrosegError, ObjectStoreError, SettingsError
from microseg_ray.evaluation.comparing import compare
from microseg_ray.evaluation.confusions import Confusions, read_confusions
from microseg_ray.evaluation.disagreements import Disagreements
from microseg_ray.evaluation.drawing import Drawing
from microseg_ray.evaluation.judged import Judged
from microseg_ray.evaluation.judging import Calibration, CalibrationSample, Judge, Tally
from microseg_ray.evaluation.pairs import Pair, PairRows, given_pair, pair_rows, true_classes
from microseg_ray.evaluation.predicting import CheckpointPredictions
from microseg_ray.evaluation.result import Evaluation
from microseg_ray.evaluation.sections import SectionRow, ShapeRule, class_named, class_sections, with_shape
from microseg_ray.evaluation.writing import OWNER, write_back, write_evaluation
from microseg_ray.files import place, sole_writer
from microseg_ray.outputs import settle
from microseg_ray.quarantine import Failure
from microseg_ray.settings import IGNORE_INDEX
from microseg_ray.sources.agreement import empty_class_objection, empty_classes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.catalog import CatalogRow
    from microseg_ray.evaluation.metrics import Reliability
    from microseg_ray.runs.folder import Run
    from microseg_ray.settings import ClassSpec, EvaluateSettings

__all__ = ["evaluate"]

Report = Callable[[int, int], None]


def evaluate(settings: EvaluateSettings, report: Report = lambda *_: None) -> Evaluation:
    """Compare masks, pooled over all pixels and as the mean of per-image values.

    Thresholds and temperature are chosen on `calibrate_split` and reported on `split`; never on what is judged.

    Args:
        settings: The job's settings.
        report: Called with (done, total).

    Returns:
        All counts; docs/evaluation.md lists the files that are written to `settings.output`.

    Raises:
        InputError: There is nothing to compare.
        SettingsError: A split or a class that does not exist, or nothing to write back, or nothing to compare with.
        CheckpointError: The checkpoint cannot be used.
        RunMismatchError: Another job is writing into the output, or something there is not ours.
    """
    specs = true_classes(settings)
    listed = pair_rows(settings)
    if settings.find is not None:
        class_named(settings.find, specs)
    if settings.write_back and not listed.calibration:
        raise SettingsError(f"evaluate.write_back: there is no calibration to write ({listed.reason})")
    # Read first: a folder that cannot be compared with is named before anything is computed.
    other = None if settings.against is None else read_confusions(settings.against, specs)
    with sole_writer(settings.output):
        return _evaluate(settings, specs, listed, other, report)


def _evaluate(
    settings: EvaluateSettings,
    specs: tuple[ClassSpec, ...],
    listed: PairRows,
    other: Confusions | None,
    report: Report,
) -> Evaluation:
    only = None if settings.find is None else class_named(settings.find, specs)
    predictions = None if settings.checkpoint is None else CheckpointPredictions(settings)
    make = _pair_maker(listed, predictions)
    total = len(listed.rows) + len(listed.calibration)
    try:
        calibration = _calibrate(settings, listed, make, len(specs), lambda done: report(done, total))
        listed = _with_reason(listed, calibration)
        judge = Judge(
            classes=len(specs),
            tolerance=settings.boundary_tolerance,
            probabilities=settings.probabilities,
            temperature=None if calibration is None else calibration.temperature.value,
            withheld_is_wrong=settings.withheld == "wrong",
        )
        drawing = Drawing(settings, specs, [row.name for row in listed.rows])
        collected = _Collected(judge.zeros())
        disagreements = Disagreements(settings, tuple(item.name for item in specs))
        for done, row in enumerate(listed.rows, 1):
            pair = make(row)
            if pair is not None:
                try:
                    truth = pair.true_mask()
                    tally, mask = judge.tally(disagreements.watch(pair), truth)
                    disagreements.add(pair, truth, mask, judge.tolerance_px(truth.shape))
                    collected.add(pair.name, tally, truth, _sections(settings, mask, specs, only))
                except ObjectStoreError:
                    raise
                except (MicrosegError, ValueError, OSError) as error:
                    listed.failures.append(Failure(pair.name, "evaluate", str(error)))
                else:
                    listed.failures.extend(drawing.draw(pair, truth, mask))
            report(len(listed.calibration) + done, total)
    finally:
        if predictions is not None:
            predictions.close()
    found = replace(
        _result(settings, specs, listed, collected, calibration, other),
        disagreements=disagreements.rows(),
        judged=_judged(settings, listed.run) if predictions is None else predictions.judged(),
    )
    write_evaluation(place(settings.output), found)
    drawing.looks(disagreements.looks())
    drawing.finish(found)
    settle(settings.output, OWNER)
    if settings.write_back and calibration is not None and isinstance(settings.checkpoint, str):
        write_back(place(settings.checkpoint), found)
    return found


def _judged(settings: EvaluateSettings, run: Run | None) -> Judged:
    """Masks that were given: of a run's model, or of one that is not known."""
    if run is None:
        return Judged(split=settings.split)
    places = run.document["checkpoint"]
    return Judged(
        model_digest=run.identity.model_digest,
        checkpoint=(places,) if isinstance(places, str) else tuple(places),
        run=str(run.folder),
        split=settings.split,
        pixels=run.identity.pixels,
    )


class _Collected:
    """Evaluate the micrographs; histograms of scores are only kept in total, because they are large."""

    def __init__(self, total: Tally) -> None:
        self.total = total
        self.tallies: dict[str, Tally] = {}
        self.sections: dict[str, list[SectionRow]] = {}
        self.reliability: dict[str, tuple[Reliability, Reliability | None]] = {}
        self.values = np.zeros(256, np.int64)

    def add(self, name: str, tally: Tally, truth: NDArray[np.uint8], sections: list[SectionRow]) -> None:
        self.total = self.total + tally
        self.values += np.bincount(truth.ravel(), minlength=256)
        self.tallies[name] = replace(tally, scores=None)
        if tally.scores is not None:
            self.reliability[name] = (tally.scores.reliability, tally.scores.tempered)
        if sections:
            self.sections[name] = sections

    def pixels(self) -> Account:
        """Pixels of the true masks: judged, or why not."""
        matrix = self.total.matrix
        withheld = int(matrix.withheld.sum())
        left = {
            "of no class in the true mask (255)": int(self.values[IGNORE_INDEX]),
            "withheld by the prediction (255)": withheld,
        }
        return Account("pixels", int(self.values.sum()), int(matrix.counts.sum()), 0, left)

    def notes(self, specs: tuple[ClassSpec, ...]) -> tuple[str, ...]:
        """A note where a named class has no true pixel: its figures say nothing."""
        values = {value: int(count) for value, count in enumerate(self.values) if count}
        note = empty_class_objection(empty_classes(self.values, specs), values, "true mask")
        return (note,) if note else ()


def _pair_maker(listed: PairRows, predictions: CheckpointPredictions | None) -> Callable[[CatalogRow], Pair | None]:
    if predictions is not None:
        return predictions.pair
    return lambda row: given_pair(row, listed.run)


def _calibrate(
    settings: EvaluateSettings,
    listed: PairRows,
    make: Callable[[CatalogRow], Pair | None],
    classes: int,
    report: Callable[[int], None],
) -> Calibration | None:
    sample = CalibrationSample(classes, len(listed.calibration), settings.seed)
    for done, row in enumerate(listed.calibration, 1):
        pair = make(row)
        if pair is not None:
            try:
                sample.add(pair, pair.true_mask())
            except ObjectStoreError:
                raise
            except (MicrosegError, ValueError, OSError) as error:
                listed.failures.append(Failure(pair.name, "calibrate", str(error)))
        report(done)
    return sample.chosen(settings.calibrate_split or "")


def _with_reason(listed: PairRows, calibration: Calibration | None) -> PairRows:
    if calibration is None and not listed.reason:
        return replace(listed, reason="no micrograph of the split could be read")
    return listed


def _sections(
    settings: EvaluateSettings, mask: NDArray[np.uint8], specs: tuple[ClassSpec, ...], only: int | None
) -> list[SectionRow]:
    if settings.sections is None:
        return []
    if only is not None:
        mask = with_shape(mask, only, ShapeRule(settings.find_max_pixels, settings.find_lines))
    return class_sections(mask, specs, settings.sections, only)


def _result(
    settings: EvaluateSettings,
    specs: tuple[ClassSpec, ...],
    listed: PairRows,
    collected: _Collected,
    calibration: Calibration | None,
    other: Confusions | None,
) -> Evaluation:
    if not collected.tallies:
        reasons = "; ".join(f"{failure.path}: {failure.reason}" for failure in listed.failures[:3])
        raise InputError(settings.masks, f"no pair of masks could be compared ({reasons})", "see the reasons above")
    found = Evaluation(
        pooled=collected.total.matrix,
        per_image={name: tally.matrix for name, tally in collected.tallies.items()},
        classes=tuple(item.name for item in specs),
        failures=listed.failures,
        total=collected.total,
        tallies=collected.tallies,
        calibration=calibration,
        reason=listed.reason,
        specs=specs,
        sections=collected.sections,
        boundary_tolerance=settings.boundary_tolerance,
        split=settings.split,
        notes=collected.notes(specs) if settings.classes or settings.checkpoint or listed.run else (),
        accounts=(
            *listed.accounts(collected.tallies, images=settings.checkpoint is not None),
            collected.pixels(),
        ),
        groups={row.name: row.group for row in listed.rows if row.name in collected.tallies},
        reliability=collected.reliability,
        resamples=settings.resamples,
        seed=settings.seed,
    )
    if other is None:
        return found
    comparison, failures = compare(found, other)
    listed.failures.extend(failures)
    return replace(found, comparison=comparison)
