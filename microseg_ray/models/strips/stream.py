"""A network that computes an image strip by strip, with a runtime that compiles graphs of fixed shapes."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import torch

from microseg_ray.geometry import ceil_to
from microseg_ray.models.strips.network import StripModule
from microseg_ray.models.strips.rows import Range
from microseg_ray.models.strips.schedule import OPEN, Schedule
from microseg_ray.models.strips.trace import traced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import Tensor, nn

    from microseg_ray.models.runtimes import Compiled, Runtime
    from microseg_ray.models.strips.schedule import Program

__all__ = ["Finished", "StripNetwork"]

WHOLE_PIXELS = 1 << 20
"""An image that is not larger is one strip: one graph to compile and not three."""

_GRAPHS = 8
"""Compiled graphs that are held; those of one size of image are at most four."""


class Finished(NamedTuple):
    """Rows whose logits are done.

    Attributes:
        rows: Their numbers in the image.
        logits: Float (1, K, y, x); a buffer that the second strip from now overwrites.
    """

    rows: Range
    logits: Tensor


class StripNetwork:
    """A network as a stream of strips.

    Args:
        model: Float32 (1, c, y, x) to logits (1, K, y, x), in evaluation mode, norms folded; its weights are shared.
        channels: c.
        stride: Sides are multiples of it.
        rows: Image rows of a strip, rounded up to the stride.
        runtime: What computes.

    Attributes:
        rows: As given, rounded up.
        schedule: What is computed when.

    Raises:
        NotStreamableError: The network has something that needs the whole image.

    Example:
        >>> from torch import nn
        >>> from microseg_ray.models.runtimes import load_runtime
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1)).eval().requires_grad_(False)
        >>> network = StripNetwork(model, channels=1, stride=1, rows=4, runtime=load_runtime("torch", "fp32"))
        >>> image = torch.rand(1, 1, 14, 9)
        >>> parts = list(network.run(lambda rows: image[:, :, rows.begin : rows.end], (14, 9)))
        >>> [part.rows for part in parts]
        [Range(begin=0, end=14)]
        >>> torch.equal(torch.cat([part.logits for part in parts], dim=2), model(image))
        True
    """

    def __init__(self, model: nn.Module, channels: int, stride: int, rows: int, runtime: Runtime) -> None:
        self.rows = ceil_to(rows, stride)
        self._nodes = traced(model, channels, stride)
        self.schedule = Schedule(self._nodes, stride, self.rows)
        self._stride = stride
        self._runtime = runtime
        # torch keeps the types that come out of its layers; a compiler is told the one in which it computes.
        self._kept_type = None if runtime.name == "torch" or runtime.precision == "fp32" else torch.bfloat16
        self._graphs: OrderedDict[tuple[Program, int], Compiled] = OrderedDict()

    def cuts(self, height: int, width: int, wanted: int | None = None) -> list[int]:
        """Rows fed after each strip, from the top to the end of the image or until the first `wanted` rows are finished.

        Args:
            height: Of the image, a multiple of the stride.
            width: Of the image.
            wanted: Rows that are wanted; None for all.
        """
        if height * width <= WHOLE_PIXELS:
            return [height]
        schedule = self.schedule
        last = height if wanted is None else ceil_to(wanted + schedule.lag, self._stride)
        first = schedule.first
        if max(first, last) >= height:
            return [*range(first, height, self.rows), height]
        return [*range(first, last, self.rows), max(first, last)]

    def run(
        self, read: Callable[[Range], Tensor], shape: tuple[int, int], wanted: int | None = None
    ) -> Iterator[Finished]:
        """Compute an image from the top.

        Args:
            read: Gives the rows asked for as the model sees them, float32 (1, c, y, x); each is asked for in order, some
                again.
            shape: (height, width) of the image, multiples of the stride.
            wanted: Stop when so many rows are finished (more may be); None for all.

        Yields:
            Finished rows, from the top down without gaps.
        """
        height, width = shape
        cuts = self.cuts(height, width, wanted)
        # The end is not to be seen from a strip that does not reach it: so strips high above it and near it are one graph.
        end = height if cuts[-1] == height else OPEN
        fed = 0
        kept: tuple[Tensor, ...] = ()
        for cut in cuts:
            over = end if cut == height else OPEN
            program = self.schedule.program(fed, cut, over)
            image = read(Range(cut - program.rows, cut))
            results = self._compiled(program, width, (image, *kept))(image, *kept)
            if program.finished:
                stop = self.schedule.state(cut, over).stops[-1]
                yield Finished(Range(stop - program.finished, stop), results[0])
                kept = results[1:]
            else:
                kept = results
            fed = cut

    def _compiled(self, program: Program, width: int, inputs: tuple[Tensor, ...]) -> Compiled:
        key = (program, width)
        if key not in self._graphs:
            while len(self._graphs) >= _GRAPHS:
                self._graphs.popitem(last=False)
            module = StripModule(self._nodes, program, self._kept_type).eval()
            self._graphs[key] = self._runtime.compile(module, inputs)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def kept_bytes(self, width: int, itemsize: int) -> int:
        """Bytes of the rows that are kept between two strips.

        Args:
            width: Of the image.
            itemsize: Bytes of a number.
        """
        return int(self.schedule.kept_numbers * width * itemsize)
