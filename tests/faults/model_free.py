"""A model and a worker that need no torch, so that workers start in a moment."""

import numpy as np

from microseg_ray.runs.worker import ArchiveWorker


class Bands:
    """Three classes, by intensity."""

    classes = 3

    def masks(self, batch, limits):
        share = (batch[:, 0].astype(np.float64) - limits[0]) / (limits[1] - limits[0])
        return np.clip(share * 3, 0, 2).astype(np.uint8)

    def scores(self, batch, limits):
        return np.moveaxis(np.eye(3, dtype=np.float32)[self.masks(batch, limits)], -1, 1)


class Quick(ArchiveWorker):
    """A worker with that model."""

    def __init__(self, config):
        super().__init__(config, Bands())
