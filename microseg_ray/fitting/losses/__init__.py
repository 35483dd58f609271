"""Training losses, each a function of sums over the batch, and class weights from pixel counts."""

from __future__ import annotations

from microseg_ray.fitting.losses.pixels import CrossEntropy, Focal, Loss
from microseg_ray.fitting.losses.regions import Lovasz, Tversky
from microseg_ray.fitting.losses.total import WeightedSum, build_loss
from microseg_ray.fitting.losses.weights import class_weights_from_counts

__all__ = [
    "CrossEntropy",
    "Focal",
    "Loss",
    "Lovasz",
    "Tversky",
    "WeightedSum",
    "build_loss",
    "class_weights_from_counts",
]
