"""Augmentation of training tiles on the device: one movement for image and mask, then changes of the image alone.

Stateless: what happens to a tile depends on (seed, epoch, index of the tile, how often it came before) alone. A resumed
run, another number of workers or another order of the batches gives each tile the same transform. The numbers are drawn on
the CPU, the pixels are changed where they lie. Movements are one resampling (`torch.nn.functional.grid_sample`), whatever
they are made of; the blur is kornia's.
"""

from __future__ import annotations

from microseg_ray.fitting.augmentation.applying import augment, relight
from microseg_ray.fitting.augmentation.draws import Draw, draw
from microseg_ray.fitting.augmentation.movement import aim, move
from microseg_ray.fitting.augmentation.pasting import paste_objects
from microseg_ray.fitting.augmentation.symmetries import apply_symmetry

__all__ = ["Draw", "aim", "apply_symmetry", "augment", "draw", "move", "paste_objects", "relight"]
