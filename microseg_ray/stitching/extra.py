"""Per-pixel output beside the class: margin, entropy, probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Extra", "extra_output"]

Extra = Literal["none", "margin", "entropy", "probabilities"]


def extra_output(scores: NDArray[np.float32], extra: Extra) -> NDArray[Any] | None:
    """The per-pixel confidence of a shard.

    Args:
        scores: (class, y, x) probabilities.
        extra: `margin` = top-1 minus top-2, `entropy` = Shannon entropy over log(classes); both 0 to 254 for 0 to 1
            (255 stays "not measured"). `probabilities` = the scores as float16.

    Returns:
        (y, x) uint8, (class, y, x) float16, or None.

    Example:
        >>> extra_output(np.array([[[1.0, 0.5]], [[0.0, 0.5]]], np.float32), "margin").tolist()
        [[254, 0]]
    """
    match extra:
        case "none":
            return None
        case "probabilities":
            return scores.astype(np.float16)
        case "margin":
            if len(scores) == 1:
                share = scores[0]
            else:
                top = np.partition(scores, len(scores) - 2, axis=0)
                share = top[-1] - top[-2]
        case "entropy":
            share = np.zeros(scores.shape[1:], np.float32)
            for plane in scores:
                safe = np.clip(plane, 1e-12, 1.0)
                share -= safe * np.log(safe)
            share /= np.float32(np.log(max(2, len(scores))))
    return np.asarray(np.rint(np.clip(share, 0, 1) * 254), dtype=np.uint8)
