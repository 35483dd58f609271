"""A network of images in OpenVINO, compiled at the first image of a size.

A network whose layers are known is written for each size; any other is converted by torch.export once, for all sizes.

Logits come out in float32. The class of a pixel is decided from them by a graph of its own in float32: inside the network's graph
they would be rounded to bfloat16 first, and close ones would tie.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

import torch

from microseg_ray.models.architectures.ensemble import members_kept
from microseg_ray.models.largest import MOST_UNROLLED, LargestClass, checked, finite, largest
from microseg_ray.models.runtimes.base import FREE_PIXELS
from microseg_ray.models.runtimes.buffers import Buffers

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from microseg_ray.models.runtimes.vino import Graph, OpenVinoRuntime

__all__ = ["ImageNetwork"]


class ImageNetwork:
    """A network of images of any size, one image at a time.

    Args:
        runtime: What computes.
        model: Float32 (n, c, y, x) to logits (n, K, y, x), or (n, K) for a classifier.
        channels: c.
        stride: Sides are multiples of it.
        size: (y, x) of a model of one size; None for any.
        written: Gives the same network for images of one height in a form that can be written; None: it is converted.

    Attributes:
        small: Shape (1, c, y, x) of a small image that it takes.

    Raises:
        RuntimeUnfitError: OpenVINO cannot compute this model.
    """

    def __init__(
        self,
        runtime: OpenVinoRuntime,
        model: nn.Module,
        channels: int,
        stride: int,
        size: tuple[int, int] | None = None,
        written: Callable[[int], nn.Module] | None = None,
    ) -> None:
        self._runtime = runtime
        self.small: tuple[int, ...] = (1, channels, *(size or (4 * stride, 5 * stride)))
        self._written = written
        self._parts = 1 + members_kept(model)
        self._model = (
            None
            if written
            else runtime.convert(model, [torch.zeros(self.small)], None if size else [_open_sides(stride)])
        )
        self._sized: OrderedDict[tuple[int, ...], tuple[Graph, list[Graph]]] = OrderedDict()

    def by(self, runtime: OpenVinoRuntime) -> ImageNetwork:
        """The same network, computed by another runtime (in another precision)."""
        other = copy.copy(self)
        other._runtime, other._sized = runtime, OrderedDict()  # noqa: SLF001 - of this class
        return other

    def logits(self, image: Tensor) -> Tensor:
        """Logits of one image.

        Args:
            image: Float32 (1, c, y, x).

        Returns:
            Float32 (1, K, y, x) or (1, K), a buffer that the next image overwrites; of an ensemble whose members are kept
            (1, (1 + members) * K, y, x).

        Raises:
            RuntimeUnfitError: OpenVINO cannot compile it for this size.
        """
        logits: Tensor = self._of_size(image)[0](image)[0]
        return logits

    def classes(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Classes of one image, and its logits, which are all finite.

        Args:
            image: As in `logits`.

        Returns:
            uint8 (1, y, x), and what `logits` returns; buffers both.

        Raises:
            MicrosegError: A logit is NaN or infinite.
            RuntimeUnfitError: As `logits`.
        """
        network, decided = self._of_size(image)
        (output,) = network(image)
        logits = output[:, : output.shape[1] // self._parts]
        if logits.shape[1] > MOST_UNROLLED:
            return largest(finite(logits)), output
        if not decided:
            decided.append(self._runtime.compile(LargestClass(), [logits], exact=True))
        (classes,) = decided[0](logits)
        return checked(classes, logits), output

    def _of_size(self, image: Tensor) -> tuple[Graph, list[Graph]]:
        shape = tuple(image.shape)
        if shape not in self._sized:
            # Before the new one is made: each holds as much memory as its image is large.
            self._forget(shape)
            self._sized[shape] = self._compiled(image), []
        self._sized.move_to_end(shape)
        return self._sized[shape]

    def _compiled(self, image: Tensor) -> Graph:
        if self._written is None:
            return self._runtime.resized(self._model, image)
        return self._runtime.compile(self._written(image.shape[2]), [image], buffers=Buffers(1))

    def _forget(self, coming: tuple[int, ...]) -> None:
        while self._sized and sum(map(_pixels, (*self._sized, coming))) > FREE_PIXELS:
            self._sized.popitem(last=False)


def _pixels(shape: tuple[int, ...]) -> int:
    return shape[-2] * shape[-1]


def _open_sides(stride: int) -> dict[int, Any]:
    sides = {}
    for axis, name in ((2, "rows"), (3, "columns")):
        side = torch.export.Dim(name, min=1)
        sides[axis] = side if stride == 1 else stride * side
    return sides
