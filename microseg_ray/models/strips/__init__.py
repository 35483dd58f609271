"""Networks as streams of row strips: each layer keeps the last rows that the next strip needs, nothing is computed twice.

A strip is an ordinary feed-forward graph of fixed shapes, with the kept rows as further inputs and outputs, so that every
runtime can compile it. Zeros (or what else a layer pads with) are added only at the image's own border. The memory is one
strip and the kept rows, whatever the image's height.

After Pinckaers et al. (Streaming convolutional neural networks, 2020) and Alwani et al. (Fused-layer CNN accelerators, 2016).
"""

from __future__ import annotations

from microseg_ray.models.strips.reason import NotStreamableError

__all__ = ["NotStreamableError"]
