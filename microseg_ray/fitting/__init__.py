"""Fitting a model to a tile store: data order, steps, validation, state. Torch, but no Ray.

Everything random is a function of (seed, epoch, tile), so a fit that was killed and resumed, or that runs on another
number of workers, sees the same batches with the same augmentation. One worker is the reference: the loss of a step is
that of the whole global batch, and batch norms see the whole of it, however it is shared out.
"""

from __future__ import annotations

from microseg_ray.fitting.batches import Crew, Tiles
from microseg_ray.fitting.loop import fit
from microseg_ray.fitting.sampling import Batch, batches_of, epoch_order
from microseg_ray.fitting.schedules import learning_rate
from microseg_ray.fitting.setup import check_fit
from microseg_ray.fitting.state import EpochReport, Fit, identity_of, saved_state

__all__ = [
    "Batch",
    "Crew",
    "EpochReport",
    "Fit",
    "Tiles",
    "batches_of",
    "check_fit",
    "epoch_order",
    "fit",
    "identity_of",
    "learning_rate",
    "saved_state",
]
