"""A network that computes an image strip by strip, with a runtime that compiles graphs of fixed shapes."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

import torch

from microseg_ray.geometry import ceil_to
from microseg_ray.models.architectures.ensemble import members_kept
from microseg_ray.models.memory import release_memory
from microseg_ray.models.runtimes.base import FREE_PIXELS, HELD_PIXELS
from microseg_ray.models.runtimes.buffers import Buffers
from microseg_ray.models.strips.kept import KeptRows
from microseg_ray.models.strips.network import StripModule
from microseg_ray.models.strips.rows import Range
from microseg_ray.models.strips.schedule import OPEN, Program, Schedule, strip_pixels
from microseg_ray.models.strips.trace import traced

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor, nn

    from microseg_ray.models.runtimes import Compiled, Runtime

__all__ = ["Finished", "StripNetwork", "undivided"]

_Key = tuple[Program, int]
"""What decides a graph: the program and the image's width."""

WHOLE_PIXELS = 1 << 20
"""An image that is not larger is one strip: one graph to compile and not three."""


def undivided(model: nn.Module, channels: int, stride: int) -> Callable[[int], StripModule]:
    """The network of an image that is one strip, by the image's height: what the model computes, in a form that can be written.

    Args:
        model: As in `StripNetwork`.
        channels: c.
        stride: Sides are multiples of it.

    Raises:
        NotStreamableError: The network has something that needs the whole image, or is not known.

    Example:
        >>> from torch import nn
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1)).eval()
        >>> image = torch.rand(1, 1, 6, 8)
        >>> torch.equal(undivided(model, 1, 1)(6)(image)[0], model(image))
        True
    """
    nodes = traced(model, channels, stride)
    schedule = Schedule(nodes, stride, 0)
    return lambda height: StripModule(nodes, schedule.program(0, height, height)).eval()


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
        members: Models of an ensemble whose own logits come out behind the result; 0 for a single model.

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
        self.members = members_kept(model)
        self._nodes = traced(model, channels, stride)
        self.schedule = Schedule(self._nodes, stride, self.rows)
        self._stride = stride
        self._runtime = runtime
        # torch keeps the types that come out of its layers; a compiler is told the one in which it computes.
        self._kept_type = None if runtime.name == "torch" or runtime.precision == "fp32" else torch.bfloat16
        self._graphs: OrderedDict[_Key, Compiled] = OrderedDict()
        self._buffers = Buffers(2)
        self._working: OrderedDict[_Key, float] = OrderedDict()

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
        strips = self._strips(height, self.cuts(height, width, wanted))
        self._make_room({(program, width) for _, _, program in strips})
        kept = _room_for([program for _, _, program in strips])
        for fed, cut, program in strips:
            image = read(Range(cut - program.rows, cut))
            # First, because it may move the rows that are read.
            places = [kept[step.node].place(step.after.length) for step in program.steps if step.after.length]
            inputs = (image, *(kept[step.node].rows(step.skip, step.before) for step in program.steps if step.before))
            graph = self._compiled((program, width), inputs)
            self._work((program, width), strip_pixels(cut - fed, program.finished, width))
            results = graph(*inputs, into=[None, *places] if program.finished else places)
            handed = iter(results[1:] if program.finished else results)
            for step in program.steps:
                if step.after.length:
                    kept[step.node].add(next(handed), step.left)
                elif step.node in kept:
                    kept[step.node].leave(step.left)
            if not fed:
                # The first rows to be kept were written there.
                self._buffers.forget()
            if program.finished:
                stop = self.schedule.state(cut, height if cut == height else OPEN).stops[-1]
                yield Finished(Range(stop - program.finished, stop), results[0])

    def _strips(self, height: int, cuts: Sequence[int]) -> list[tuple[int, int, Program]]:
        """Rows fed before and after each strip, and its program, which all strips of one height in the middle share."""
        strips: list[tuple[int, int, Program]] = []
        middle: dict[int, Program] = {}
        for fed, cut in itertools.pairwise([0, *cuts]):
            if fed < self.schedule.first or cut == height:
                strips.append((fed, cut, self._program(fed, cut, height)))
                continue
            if cut - fed not in middle:
                middle[cut - fed] = self._program(fed, cut, height)
            strips.append((fed, cut, middle[cut - fed]))
        return strips

    def _program(self, fed: int, cut: int, height: int) -> Program:
        # The end is not to be seen from a strip that does not reach it: so strips high above it and near it are one graph.
        return self.schedule.program(fed, cut, height if cut == height else OPEN)

    def _compiled(self, key: _Key, inputs: tuple[Tensor, ...]) -> Compiled:
        if key not in self._graphs:
            module = StripModule(self._nodes, key[0], self._kept_type).eval()
            self._graphs[key] = self._runtime.compile(module, inputs, buffers=self._buffers)
        self._graphs.move_to_end(key)
        return self._graphs[key]

    def _make_room(self, needed: set[_Key]) -> None:
        """Forget graphs of other sizes of image, the oldest first, until all that are held are small together."""
        old = [key for key in self._graphs if key not in needed]
        while old and sum(map(_pixels, needed | set(old))) > FREE_PIXELS:
            del self._graphs[old[0]]
            self._working.pop(old.pop(0), None)
            self._buffers.forget()
            release_memory()

    def _work(self, key: _Key, pixels: float) -> None:
        """Let a graph have memory, and take it from those that worked before, the oldest first, where all have too much."""
        self._working[key] = pixels
        self._working.move_to_end(key)
        while len(self._working) > 1 and sum(self._working.values()) > HELD_PIXELS[self._runtime.precision]:
            other, _ = self._working.popitem(last=False)
            self._graphs[other].release()
            release_memory()

    def kept_bytes(self, width: int, itemsize: int) -> int:
        """Bytes of the rows that are kept between two strips.

        Args:
            width: Of the image.
            itemsize: Bytes of a number.
        """
        return int(self.schedule.kept_numbers * width * itemsize)


def _pixels(key: _Key) -> int:
    program, width = key
    return program.rows * width


def _room_for(programs: Sequence[Program]) -> dict[int, KeptRows]:
    """Room for the rows that are kept in an image, by node."""
    most: dict[int, int] = {}
    added: dict[int, int] = {}
    for step in (step for program in dict.fromkeys(programs) for step in program.steps if step.after.length):
        most[step.node] = max(most.get(step.node, 0), step.left + step.after.length)
        added[step.node] = max(added.get(step.node, 0), step.after.length)
    return {index: KeptRows(rows, added[index]) for index, rows in most.items()}
