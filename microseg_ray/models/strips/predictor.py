"""A checkpoint's model that predicts strips: source integers in, classes and probabilities of finished rows out."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import torch

from microseg_ray.models.largest import MOST_UNROLLED, LargestClass, checked, finite, largest, own_classes
from microseg_ray.models.strips.rows import Range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from microseg_ray.models.runtimes import Compiled, Runtime
    from microseg_ray.models.strips.stream import StripNetwork

__all__ = ["PredictedRows", "StripPredictor"]

Limits = tuple[float, float]
_DECIDING = 4


class PredictedRows(NamedTuple):
    """The prediction of some rows.

    Attributes:
        begin: First row.
        mask: (y, x) uint8.
        scores: (class, y, x) float32 probabilities, where asked for.
        members: (member, y, x) uint8 classes by each member of an ensemble; None of a single model.
    """

    begin: int
    mask: NDArray[np.uint8]
    scores: NDArray[np.float32] | None
    members: NDArray[np.uint8] | None = None


class StripPredictor:
    """Predicts an image from the top, strip by strip.

    Args:
        network: The model in strips.
        runtime: What computes it.
        prepare: From pixels (1, c, y, x) as read, and limits, to what the model sees.
        whole: Classes (1, y, x) and logits of an image as the model sees it, for images that are not divided: a runtime
            that compiles has a graph of any size for them, and a strip would be converted for each size anew. None:
            they are strips like others.
    """

    def __init__(
        self,
        network: StripNetwork,
        runtime: Runtime,
        prepare: Callable[[NDArray[np.generic], Limits], Tensor],
        whole: Callable[[Tensor], tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        self._network = network
        self._runtime = runtime
        self._prepare = prepare
        self._whole = whole
        # None for a shape that came once.
        self._deciding: OrderedDict[tuple[int, ...], Compiled | None] = OrderedDict()

    def run(
        self,
        read: Callable[[int, int], NDArray[np.generic]],
        shape: tuple[int, int],
        limits: Limits,
        wanted: int | None = None,
        *,
        scores: bool = False,
    ) -> Iterator[PredictedRows]:
        """Predict an image.

        Args:
            read: Gives the rows from one number to another, (c, y, x) in the source's type, of the image's whole width.
            shape: (height, width), multiples of the stride.
            limits: Intensities that become 0 and 1.
            wanted: Stop when so many rows are done; None for all.
            scores: Give probabilities, too.

        Yields:
            Rows from the top down, without gaps.
        """

        def image(rows: Range) -> Tensor:
            return self._prepare(read(rows.begin, rows.end)[None], limits)

        if self._whole is not None and self._network.cuts(*shape, wanted) == [shape[0]]:
            classes, output = self._whole(image(Range(0, shape[0])))
            # A copy: the next image overwrites the buffer.
            yield self._rows(0, classes[0].numpy().copy(), output, scores=scores)
            return
        for part in self._network.run(image, shape, wanted):
            output = part.logits.float()
            mask = self._decided(self._answer(output))[0].cpu().numpy()
            yield self._rows(part.rows.begin, mask, output, scores=scores)

    def _answer(self, output: Tensor) -> Tensor:
        """The logits, without those of the members of an ensemble behind them."""
        return output[:, : output.shape[1] // (1 + self._network.members)]

    def _rows(self, begin: int, mask: NDArray[np.uint8], output: Tensor, *, scores: bool) -> PredictedRows:
        members = self._network.members
        return PredictedRows(
            begin,
            mask,
            _probabilities(self._answer(output)) if scores else None,
            own_classes(output, members)[0] if members else None,
        )

    def _decided(self, logits: Tensor) -> Tensor:
        """Classes (1, y, x) uint8 of logits that are all finite."""
        if self._runtime.name == "torch" or logits.shape[1] > MOST_UNROLLED:
            return largest(finite(logits))
        # A graph of its own in float32, as for tiles: inside the strip's logits would be rounded, and close ones would tie.
        graph = self._deciding_graph(logits)
        return largest(finite(logits)) if graph is None else checked(graph(logits)[0], logits)

    def _deciding_graph(self, logits: Tensor) -> Compiled | None:
        """Compiled for this shape; None where it comes for the first time: compiling takes longer than deciding once."""
        shape = tuple(logits.shape)
        if shape not in self._deciding:
            while len(self._deciding) >= _DECIDING:
                self._deciding.popitem(last=False)
            self._deciding[shape] = None
            return None
        graph = self._deciding[shape] or self._runtime.compile(LargestClass(), [logits], exact=True)
        self._deciding[shape] = graph
        return graph


def _probabilities(logits: Tensor) -> NDArray[np.float32]:
    with torch.inference_mode():
        found: NDArray[np.float32] = logits.contiguous().softmax(dim=1)[0].cpu().numpy()
    return found
