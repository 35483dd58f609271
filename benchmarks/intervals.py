"""How often 95 % intervals of area fractions cover the true fraction: `python benchmarks/intervals.py --fields 200`.

Fields are generated from random structures whose fraction is known exactly, each by its own random numbers. What is printed is
`docs/results/intervals.md`'s tables.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy import ndimage, stats
from scipy.spatial import cKDTree

from microseg_ray.statistics.estimates import Estimate
from microseg_ray.statistics.intervals import between_micrographs
from microseg_ray.statistics.model_error import METHODS, correction_of, olofsson_standard_error
from microseg_ray.statistics.sampling import bounded_interval, sampling_error
from microseg_ray.statistics.spread import spread_of


def gaussian(generator, side, length, fraction):
    """A Gaussian random field of correlation length `length` px above a threshold."""
    noise = generator.standard_normal((side + 8 * length,) * 2)
    field = ndimage.gaussian_filter(noise, length, mode="wrap")[:side, :side]
    return field * 2 * np.sqrt(np.pi) * length > stats.norm.ppf(1 - fraction)


def discs(generator, side, length, fraction):
    """Discs of radius `length` px at random places, which may overlap (a Boolean model)."""
    around = side + 2 * length
    count = generator.poisson(-np.log(1 - fraction) / (np.pi * length**2) * around**2)
    if not count:
        return np.zeros((side, side), bool)
    distance, _ = cKDTree(generator.random((count, 2)) * around).query(
        _places(side, length), distance_upper_bound=length
    )
    return np.isfinite(distance).reshape(side, side)


def grains(generator, side, length, fraction):
    """Voronoi cells of the area of a disc of radius `length` px, each of the class or not."""
    around = side + 10 * length
    count = max(1, generator.poisson(around**2 / (np.pi * length**2)))
    of_class = generator.random(count) < fraction
    _, nearest = cKDTree(generator.random((count, 2)) * around).query(_places(side, 5 * length))
    return of_class[nearest].reshape(side, side)


def _places(side, offset):
    y, x = np.mgrid[:side, :side] + 0.5 + offset
    return np.stack([y.ravel(), x.ravel()], axis=1)


STRUCTURES = {"gaussian": gaussian, "discs": discs, "grains": grains}


def blocks_of(field, side=2):
    """Counts in blocks of 2 px, and pixels in them."""
    height, width = (length // side for length in field.shape)
    counts = field.reshape(height, side, width, side).sum(axis=(1, 3)).astype(float)
    return counts, np.full(counts.shape, float(side**2))


class Tally:
    """Coverage and width of intervals."""

    def __init__(self):
        self.covered, self.widths, self.trusted = [], [], []

    def add(self, interval, truth, *, trusted=True):
        self.covered.append(interval is not None and interval.low <= truth <= interval.high)
        self.trusted.append(trusted and interval is not None)
        if interval is not None:
            self.widths.append(interval.high - interval.low)

    def cells(self):
        covered, trusted = np.array(self.covered), np.array(self.trusted)
        good = f"{100 * covered[trusted].mean():.1f} ({trusted.sum()})" if trusted.any() else "-"
        missing = len(covered) - len(self.widths)
        width = f"{np.mean(self.widths):.4f}" if self.widths else "-"
        return f"{100 * covered.mean():.1f} | {good} | {width} | {missing}"


SUMMARY = []
"""A row of the table of all methods for each simulation."""


def note(method, structure, length, fraction, micrographs, tally):
    """Keep what one method did in one simulation, for the table of all methods."""
    coverage, _, width, missing = tally.cells().split(" | ")
    cells = (method, structure, length, fraction, micrographs, len(tally.covered), coverage, width, missing)
    SUMMARY.append(" | ".join(map(str, cells)))


def summary_table():
    """All methods in the same columns; intervals that could not be given count as not covering."""
    print(
        "\n| method | structure | length px | fraction | micrographs | draws | coverage % | mean width | no interval |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for row in SUMMARY:
        print(f"| {row} |")


def sampling_table(fields, side, seed):
    print(
        "\n| structure | length px | fraction | fields | coverage % | without a reason (number) | mean width | no interval |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, lengths in (("gaussian", (2, 4, 8, 16, 32)), ("discs", (4, 8, 16)), ("grains", (6, 12, 24))):
        for length in lengths:
            for fraction in (0.02, 0.1, 0.4):
                generator = np.random.default_rng([seed, length, int(1000 * fraction)])
                tally = Tally()
                for _ in range(fields):
                    found = sampling_error(*blocks_of(STRUCTURES[name](generator, side, length, fraction)), side=2)
                    interval = bounded_interval(found.fraction, found.variance, found.degrees_of_freedom)
                    tally.add(interval, fraction, trusted=not found.reason)
                note("sampling", name, length, fraction, 1, tally)
                print(f"| {name} | {length} | {fraction} | {fields} | {tally.cells()} |", flush=True)


def micrographs_table(fields, side, seed):
    """Groups of fields of which no two are in two groups; with and without a trend over the specimen."""
    print(
        "\n| structure | fraction | micrographs | groups | coverage %, between micrographs | width | coverage %, within | width |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for name, length, fraction, trend in (
        ("grains", 6, 0.1, 0.0),
        ("gaussian", 4, 0.4, 0.0),
        ("discs", 6, 0.02, 0.0),
        ("grains", 6, 0.3, 0.1),
    ):
        generator = np.random.default_rng([seed, 1, length])
        for count in (2, 3, 5, 10):
            between, within = Tally(), Tally()
            for _ in range(fields):
                shares, errors = [], []
                for _ in range(count):
                    # The places of a specimen differ: each micrograph has its own mean.
                    local = float(np.clip(fraction + generator.normal(0, trend), 0.01, 0.99)) if trend else fraction
                    counts, measured = blocks_of(STRUCTURES[name](generator, side, length, local))
                    found = sampling_error(counts, measured, side=2)
                    shares.append(found.fraction)
                    errors.append(found)
                shares = np.array(shares)
                row = between_micrographs(np.full(count, side**2), np.stack([1 - shares, shares], axis=1))[1]
                between.add(bounded_interval(row.value, row.variance, row.degrees_of_freedom), fraction)
                variance = sum(each.variance for each in errors) / count**2
                below = sum((each.variance / count**2) ** 2 / each.degrees_of_freedom for each in errors)
                freedom = variance**2 / below if below > 0 else np.nan
                within.add(bounded_interval(shares.mean(), variance, freedom), fraction)
            cells = [tally.cells().split(" | ") for tally in (between, within)]
            shown = f"{name}{f', places differ by {trend}' if trend else ''}"
            note("micrographs", shown, length, fraction, count, between)
            note("sampling, several fields", shown, length, fraction, count, within)
            what = f"{shown} | {fraction} | {count} | {fields}"
            print(f"| {what} | {cells[0][0]} | {cells[0][2]} | {cells[1][0]} | {cells[1][2]} |", flush=True)


def model_table(fields, seed):
    """Counts of micrographs whose rates of error and proportions vary from one to the next."""
    print(
        "\n| test micrographs | measured micrographs | proportions | "
        "inverse, coverage % | width | stratified | width | as predicted, bias | Olofsson, pixels as points, coverage % |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    pixels = 100_000
    for tests in (5, 10, 20):
        for measured in (1, 10):
            for what, shift in (("as tested", 0.0), ("twice the pores", 1.0)):
                generator = np.random.default_rng([seed, 2, tests, measured])
                tallies = {method: Tally() for method in METHODS}
                naive, bias = Tally(), []
                for _ in range(2 * fields):
                    confusions = np.stack([_confusion(generator, pixels, 0.0) for _ in range(tests)])
                    seen = np.stack([_confusion(generator, pixels, shift) for _ in range(measured)])
                    predicted = seen.sum(axis=(0, 1)) / seen.sum()
                    truth = float(seen.sum(axis=(0, 2))[1] / seen.sum())
                    bias.append(predicted[1] - truth)
                    for method in METHODS:
                        found = correction_of(confusions, method)
                        error = found.standard_error(measured)[1]
                        interval = bounded_interval(
                            float(found.corrected(predicted)[1]), error**2, found.degrees_of_freedom
                        )
                        tallies[method].add(interval, truth)
                    pooled = confusions.sum(axis=0)
                    error = olofsson_standard_error(predicted, pooled)[1]
                    value = float((pooled / pooled.sum(axis=0) @ predicted)[1])
                    naive.add(bounded_interval(value, error**2, 1e9), truth)
                for method in METHODS:
                    shown = f"counts of {tests} test micrographs, {what}"
                    note(f"model_{method}", shown, "-", 0.1 * (1 + shift), measured, tallies[method])
                cells = [tallies[method].cells().split(" | ") for method in METHODS]
                print(
                    f"| {tests} | {measured} | {what} | {cells[0][0]} | {cells[0][2]} | {cells[1][0]} | {cells[1][2]} | "
                    f"{np.mean(bias):+.4f} | {naive.cells().split(' | ')[0]} |",
                    flush=True,
                )


def _confusion(generator, pixels, shift):
    """(true, predicted) pixels of a micrograph of rest and pores, 10 % of pores in the mean; recall near 0.8."""
    share = generator.beta(10 * (1 + shift), 90 - 10 * shift)
    recall, false = generator.beta(32, 8), generator.beta(4, 96)
    pores = generator.binomial(pixels, share)
    hits, alarms = generator.binomial(pores, recall), generator.binomial(pixels - pores, false)
    return np.array([[pixels - pores - alarms, alarms], [pores - hits, hits]])


def combined_table(fields, side, seed):
    """A model that flips whole grains: the fraction of the material from predicted masks and a test set of 10."""
    print(
        "\n| measured micrographs | groups | combined, coverage % | width | as predicted, sampling alone, coverage % | width |"
    )
    print("|---|---|---|---|---|---|")
    fraction, length = 0.3, 6
    for measured in (1, 6):
        generator = np.random.default_rng([seed, 3, measured])
        combined, alone = Tally(), Tally()
        for _ in range(fields):
            tests = [_predicted(generator, side, length, fraction) for _ in range(10)]
            confusions = np.stack([np.bincount(2 * t.ravel() + p.ravel(), minlength=4).reshape(2, 2) for t, p in tests])
            correction = correction_of(confusions, METHODS[0])
            masks = [_predicted(generator, side, length, fraction)[1] for _ in range(measured)]
            if measured == 1:
                counts, pixels = blocks_of(masks[0])
                plain = sampling_error(counts, pixels, side=2)
                matrix = correction.matrix
                found = sampling_error(matrix[1, 0] * (pixels - counts) + matrix[1, 1] * counts, pixels, side=2)
                error = correction.standard_error(1)[1]
                parts = [(found.variance, found.degrees_of_freedom), (error**2, correction.degrees_of_freedom)]
                value = found.fraction
                alone.add(bounded_interval(plain.fraction, plain.variance, plain.degrees_of_freedom), fraction)
            else:
                shares = np.array([[1 - mask.mean(), mask.mean()] for mask in masks])
                plain = between_micrographs(np.full(measured, side**2), shares)[1]
                found = between_micrographs(np.full(measured, side**2), correction.corrected(shares))[1]
                error = correction.standard_error(None)[1]
                parts = [(found.variance, found.degrees_of_freedom), (error**2, correction.degrees_of_freedom)]
                value = found.value
                alone.add(bounded_interval(plain.value, plain.variance, plain.degrees_of_freedom), fraction)
            variance = sum(part for part, _ in parts)
            freedom = variance**2 / sum(part**2 / each for part, each in parts)
            combined.add(bounded_interval(value, variance, freedom), fraction)
        note("combined", "grains, 10 test micrographs", length, fraction, measured, combined)
        cells = [tally.cells().split(" | ") for tally in (combined, alone)]
        print(f"| {measured} | {fields} | {cells[0][0]} | {cells[0][2]} | {cells[1][0]} | {cells[1][2]} |", flush=True)


def _predicted(generator, side, length, fraction):
    """A true mask, and a prediction that misses part of the class by a rate of the micrograph's own."""
    truth = grains(generator, side, length, fraction)
    missed = generator.beta(8, 32)
    wrong = gaussian(generator, side, 3, missed)
    return truth.astype(np.intp), (truth & ~wrong).astype(np.intp)


def spread_table(fields, side, seed):
    """Predictions that move every boundary by an error of their own, and by one that all have in common."""
    print(
        "\n| predictions | error of each | common error | fields | spread, coverage % | mean width | "
        "sampling and spread, coverage % | mean width | sampling alone, coverage % |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for count, own, common in (
        *((count, 0.15, 0.0) for count in (2, 3, 5, 8)),
        (3, 0.4, 0.0),
        (8, 0.4, 0.0),
        (3, 0.15, 0.1),
        (8, 0.15, 0.3),
    ):
        generator = np.random.default_rng([seed, 4, count, int(100 * own), int(100 * common)])
        spread, both, alone = Tally(), Tally(), Tally()
        for _ in range(fields):
            truth, joint, masks = predictions(generator, side, count, own, common)
            found = spread_of(float(joint.mean()), masks.mean(axis=(1, 2)))
            spread.add(bounded_interval(found.value, found.variance, found.degrees_of_freedom), truth.mean())
            plain = sampling_error(*blocks_of(joint), side=2)
            sampled = Estimate(plain.fraction, plain.variance, plain.degrees_of_freedom)
            alone.add(bounded_interval(sampled.value, sampled.variance, sampled.degrees_of_freedom), 0.3)
            sampled = sampled.plus(found)
            both.add(bounded_interval(sampled.value, sampled.variance, sampled.degrees_of_freedom), 0.3)
        what = f"gaussian, {count} predictions, own error {own}, common {common}"
        note("ensemble, tta", what, 4, 0.3, 1, spread)
        note("combined of sampling and spread", what, 4, 0.3, 1, both)
        cells = [tally.cells().split(" | ") for tally in (spread, both, alone)]
        parts = (cells[0][0], cells[0][2], cells[1][0], cells[1][2], cells[2][0])
        print(f"| {count} | {own} | {common} | {fields} | {' | '.join(parts)} |", flush=True)


def predictions(generator, side, count, own, common):
    """A true mask of 30 %, the mask of the mean of several scores, and that of each score.

    A score is the true field, whose level is the boundary, plus a level of the prediction's own, the same for the whole field as
    a network's bias is, plus noise of 2 px of its own.
    """
    length = 4
    noise = generator.standard_normal((side + 8 * length,) * 2)
    field = ndimage.gaussian_filter(noise, length, mode="wrap")[:side, :side] * 2 * np.sqrt(np.pi) * length
    level = stats.norm.ppf(0.7)
    shift = generator.normal(0, common) + generator.normal(0, own, count)
    specks = [
        ndimage.gaussian_filter(generator.standard_normal((side, side)), 2, mode="wrap") * 2 * np.sqrt(np.pi) * 2
        for _ in range(count)
    ]
    scores = field + shift[:, None, None] + 0.2 * np.stack(specks)
    return field > level, scores.mean(axis=0) > level, scores > level


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fields", type=int, default=200)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tables", nargs="+", default=["model", "sampling", "micrographs", "combined", "spread"])
    chosen = parser.parse_args()
    started = time.process_time()
    for table in chosen.tables:
        if table == "sampling":
            sampling_table(chosen.fields, chosen.side, chosen.seed)
        elif table == "micrographs":
            micrographs_table(chosen.fields, chosen.side // 2, chosen.seed)
        elif table == "model":
            model_table(chosen.fields, chosen.seed)
        elif table == "spread":
            spread_table(chosen.fields, chosen.side // 2, chosen.seed)
        else:
            combined_table(chosen.fields, chosen.side // 2, chosen.seed)
    summary_table()
    print(f"\n{time.process_time() - started:.0f} CPU s")


if __name__ == "__main__":
    main()
