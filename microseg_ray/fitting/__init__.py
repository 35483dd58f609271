"""Fitting a model to a tile store: data order, steps, validation, state. Torch, but no Ray.

Everything random is a function of (seed, epoch, tile), so a fit that was killed and resumed, or that runs on another
number of workers, sees the same batches with the same augmentation. One worker is the reference: the loss of a step is
the mean over the whole global batch, however it is shared out.
"""

from __future__ import annotations

from microseg_ray.fitting.batches import Crew, Tiles, batches_of
from microseg_ray.fitting.loop import check_fit, fit, learning_rate
from microseg_ray.fitting.state import EpochReport, Fit, identity_of, saved_state

__all__ = [
    "Crew",
    "EpochReport",
    "Fit",
    "Tiles",
    "batches_of",
    "check_fit",
    "fit",
    "identity_of",
    "learning_rate",
    "saved_state",
]
