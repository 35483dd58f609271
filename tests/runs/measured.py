"""Runs to measure, and the rows of what was measured."""

from __future__ import annotations

import csv

import numpy as np

from microseg_ray.runs.folder import Run
from microseg_ray.runs.identity import RunIdentity
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.settings import ClassSpec

NAMES = ("matrix", "grain", "pore")
CLASSES = tuple(ClassSpec(name=name) for name in NAMES)
QUICK = ("--intervals.structure", "false", "--exports.write", "false")
"""Without chords, correlation, workbook and plots, which have tests of their own and take most of the time."""
MEASURE = ("measure", "--objects.measure", "false", *QUICK, "--run")


def mask_of(number):
    """Squares of 10 px of random classes; `pore` is in the first micrograph of each group only."""
    generator = np.random.default_rng(number)
    share = (0.6, 0.3, 0.1) if number % 3 == 0 else (0.65 + number / 50, 0.35 - number / 50, 0)
    mask = np.kron(generator.choice(3, (20, 15), p=share).astype(np.uint8), np.ones((10, 10), np.uint8))
    mask[:20] = 255
    return mask


def make_run(folder, sizes, *, unfinished=(), masks=None):
    """A run of micrographs G_N.tif with the pixel sizes given by name."""
    record = {
        "archive": str(folder / "images"),
        "source": {},
        "checkpoint": "m",
        "settings": {},
        "classes": [spec.model_dump() for spec in CLASSES],
    }
    run = Run.create(folder / "run", RunIdentity("f0", {"halo": 8}), record)
    for number, (name, size) in enumerate(sizes.items()):
        mask = mask_of(number) if masks is None else masks[number]
        store = MaskStore.create(run.store_path(name), MaskSpec(mask.shape, CLASSES, shard=64), {"model": "f0"})
        for shard in store.missing():
            if name not in unfinished or shard != (0, 0):
                store.commit(shard, mask[store.spec.box(shard).slices])
        if name not in unfinished:
            note = {"pixel_size_um": size, "pixel_size_source": "option", "info_bar": {"rows": 10}}
            store.finish(size, note)
    return run.folder


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as handle:
        return list(csv.DictReader(handle))


def by(rows, *keys):
    found = {tuple(row[key] for key in keys): row for row in rows}
    assert len(found) == len(rows)
    return found
