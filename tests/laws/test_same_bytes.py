"""Law 2: same bytes, whatever happens. Any order of tasks, and a run that is cut off and continued, write the same files.

The same with one and two Ray workers: tests/runs/test_segment.py and tests/faults/test_workers.py.
"""

from __future__ import annotations

import random

import numpy as np
import pytest
from PIL import Image

from microseg_ray.runs.drive import survey, work
from microseg_ray.runs.folder import Run
from microseg_ray.runs.segment import segment
from microseg_ray.runs.setup import prepare_job
from microseg_ray.runs.worker import ArchiveWorker
from microseg_ray.settings import SegmentSettings


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    for name, shape in (("a", (150, 170)), ("b", (64, 80))):
        pixels = np.random.default_rng(ord(name)).integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{name}.png")
    return folder


class Shuffled:
    """The plain loop in another order, which ends after so many tasks."""

    def __init__(self, config, seed, tasks):
        self.worker, self.random, self.left = ArchiveWorker(config), random.Random(seed), tasks

    def run(self, pending):
        waiting = []
        while pending or waiting:
            while pending:
                waiting.append(pending.popleft())
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield self.worker.do(waiting.pop(self.random.randrange(len(waiting))))

    def close(self):
        self.worker.close()


@pytest.mark.parametrize("options", [{}, {"blend": "hann", "tile": 64}], ids=["crop", "hann"])
def test_order_and_interruption_do_not_show(images, checkpoint, tmp_path, tree_of, options):
    def chosen(output):
        return SegmentSettings(
            archive=str(images), checkpoint=str(checkpoint), output=str(output), workers=0, shard=64, **options
        )

    reference = segment(chosen(tmp_path / "plain")).run
    job = prepare_job(chosen(tmp_path / "other"))
    run = Run.create(tmp_path / "other", job.identity, job.record)
    for seed, tasks in ((0, 5), (1, 4), (2, 1000)):
        executor = Shuffled(job.config, seed, tasks)
        try:
            ledger, progress = survey(run, job.inputs, job.config, lambda each=executor: each, lambda _: None)
            work(run, ledger, progress, lambda each=executor: each, lambda _: None)
        except KeyboardInterrupt:
            assert tasks < 1000
        finally:
            executor.close()
    run.write_tables([item.name for item in job.inputs], [])
    assert tree_of(run.folder / "masks") == tree_of(reference.folder / "masks")
    for table in ("areas.csv", "areas.parquet"):
        assert (run.folder / table).read_bytes() == (reference.folder / table).read_bytes()
