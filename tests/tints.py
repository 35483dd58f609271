"""The mask that an overlay shows, found again from its pixels and the micrograph."""

import numpy as np

from microseg_ray.figures import tinted
from microseg_ray.figures.overlays import ALPHA


def decode_tint(colored, gray, palette, alpha=ALPHA):
    """Mask (y, x) of an image that `tinted` made; every pixel must be the tint of exactly one class, or of 255."""
    values = [255, *np.flatnonzero((palette != palette[-1]).any(axis=1))]
    masks = [np.full(gray.shape[:2], value, np.uint8) for value in values]
    fits = np.array([(tinted(gray, mask, palette, alpha) == colored).all(axis=-1) for mask in masks])
    assert (fits.sum(axis=0) == 1).all()
    return np.asarray(values, np.uint8)[fits.argmax(axis=0)]
