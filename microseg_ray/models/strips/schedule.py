"""Which rows of each layer are computed in which strip, and which are kept for the next.

After the image rows up to r have been fed, each layer has been computed as far as its inputs allow, and keeps the rows from
the lowest one that a later strip needs. Both follow from r alone, and, away from the top, move down with r. So all strips
of one height in the middle of an image are one graph.

Two things are chosen. A layer whose only reader lags behind (a skip connection) may be computed early, and its rows kept, or
late, and the rows of its input kept: whichever keeps fewer bytes. And a layer may keep the few rows that its readers need
again, or compute them again: keeping them means copying all rows of a strip behind those kept, which at full resolution takes
longer than computing two rows anew.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from microseg_ray.geometry import ceil_to, floor_to
from microseg_ray.models.strips.reason import NotStreamableError
from microseg_ray.models.strips.rows import Cut, Range, Rows, Same

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from microseg_ray.models.strips.trace import Node

__all__ = ["Program", "Schedule", "State", "Step", "Take", "strip_pixels"]

OPEN = 1 << 40
"""Height of an image whose end is not reached."""
_FAR = 1 << 14
_SEARCH = 1 << 12
_REMEMBERED = 8
_COPY = 40.0
"""Multiplications that take as long as copying a number: measured with OpenVINO in bf16 (20 to 60)."""


def strip_pixels(fed: float, finished: float, width: int) -> float:
    """Pixels of a whole image whose layers need about as much memory as a strip.

    Args:
        fed: Image rows that it is fed.
        finished: Rows that it finishes.
        width: Of the image.

    Example:
        >>> strip_pixels(64, 64, 100)
        6400.0
    """
    return (fed + finished) / 2 * width


class Take(NamedTuple):
    """Rows of an earlier result: `length` rows from `offset` on."""

    node: int
    offset: int
    length: int


class Step(NamedTuple):
    """What a strip does at one node.

    Attributes:
        node: Index of the node.
        takes: Its inputs; none where it computes nothing in this strip.
        cut: How the operation is applied.
        before: Rows that it takes over from earlier strips, which lie above those computed; 0 for none.
        skip: Rows that are kept above these and not read by this strip.
        after: Rows that it hands to later strips, of those computed.
        left: Rows kept before that remain kept, the last of them.
        joined: Whether rows taken over and rows computed are joined, because they are read so.
        last: Nodes whose results nothing needs after this step.
    """

    node: int
    takes: tuple[Take, ...]
    cut: Cut
    before: int = 0
    skip: int = 0
    after: Take = Take(0, 0, 0)
    left: int = 0
    joined: bool = False
    last: tuple[int, ...] = ()


class Program(NamedTuple):
    """All that decides a strip's graph; equal programs are one graph.

    Attributes:
        rows: Image rows that go in.
        steps: In order; the last gives the finished rows, none where none is finished.
        finished: Rows that come out.
    """

    rows: int
    steps: tuple[Step, ...]
    finished: int


@dataclass(frozen=True)
class State:
    """Where each node stands.

    Attributes:
        stops: Rows computed so far, of each node.
        lows: First row that is still needed; less than 0 where the layer's padding is.
    """

    stops: tuple[int, ...]
    lows: tuple[int, ...]


class Schedule:
    """The schedule of one network for strips of about one height.

    Args:
        nodes: The network's operations, as `traced` gives them.
        stride: Image rows come in multiples of it.
        rows: Image rows of a strip, for which the choices are made; any others may be fed. 0: images are one strip each, and
            nothing is chosen.
        early: `fewest_kept` of another schedule of the same network, which takes as long to find as all the rest; None: it is
            found.

    Attributes:
        early: Nodes that are computed early.

    Example:
        >>> from torch import nn
        >>> from microseg_ray.models.strips.trace import traced
        >>> schedule = Schedule(traced(nn.Sequential(nn.Conv2d(1, 2, 3, padding=1)).eval(), 1, 1), stride=1, rows=4)
        >>> schedule.first, schedule.lag
        (2, 1)
        >>> [step.takes for step in schedule.program(8, 12).steps[1:]]
        [(Take(node=0, offset=0, length=6),)]
    """

    def __init__(self, nodes: Sequence[Node], stride: int, rows: int, early: frozenset[int] | None = None) -> None:
        self.stride = stride
        self.rows = rows
        self._nodes = nodes
        self._rows: list[Rows] = [Same() if node.operation is None else node.operation.rows for node in nodes]
        self._inputs = [node.inputs for node in nodes]
        self._readers: list[list[int]] = [[] for _ in nodes]
        for index, node in enumerate(nodes):
            for each in node.inputs:
                self._readers[each].append(index)
        # A pooling that reads each row once: its input waits until whole windows are there, so that it is read as it is.
        self._grains = [max([self._rows[reader].whole for reader in readers], default=1) for readers in self._readers]
        self._found: dict[tuple[int, frozenset[int]], tuple[int, ...]] = {}
        self._open = self.heights(OPEN)
        self.early: frozenset[int] = frozenset()
        self._again: frozenset[int] = frozenset()
        if rows:
            self.early = self.fewest_kept if early is None else early
            self._again = self._cheapest()

    @cached_property
    def fewest_kept(self) -> frozenset[int]:
        """What is computed early so that the fewest rows are kept, whatever the height of strips."""
        before, self.early, self._again = (self.early, self._again), frozenset(), frozenset()
        changes = [frozenset({index}) for index in range(1, len(self._nodes) - 1)]
        found = self._lowered(frozenset(), changes, "early", self._kept_numbers)
        self.early, self._again = before
        return found

    def _cheapest(self) -> frozenset[int]:
        """What is computed again so that a strip takes the least time."""
        groups, chosen = list(self._groups().values()), self._again
        for _ in range(2):
            before, chosen = chosen, self._lowered(chosen, groups, "_again", self._cost)
            if chosen == before:
                break
        return chosen

    def _lowered(
        self, chosen: frozenset[int], changes: list[frozenset[int]], name: str, cost: Callable[[], float]
    ) -> frozenset[int]:
        """The changes that lower the cost, tried one after the other; a tie is a change, so that groups can follow."""
        least = cost()
        for change in changes:
            tried = chosen - change if change <= chosen else chosen | change
            setattr(self, name, tried)
            found = cost()
            if found < least or (found == least and len(tried) > len(chosen)):
                least, chosen = found, tried
            setattr(self, name, chosen)
        return chosen

    def _groups(self) -> dict[int, frozenset[int]]:
        """Each layer with the activations and sums that follow it: rows are kept behind them, not between."""
        leader: list[int] = []
        for index, inputs in enumerate(self._inputs):
            follows = inputs and isinstance(self._rows[index], Same) and max(inputs) > 0
            leader.append(max(leader[each] for each in inputs) if follows else index)
        groups: dict[int, set[int]] = {}
        for index in range(1, len(leader) - 1):
            groups.setdefault(leader[index], set()).add(index)
        return {first: frozenset(group) for first, group in groups.items()}

    def _kept_numbers(self) -> float:
        state = self.state(_FAR * self.stride)
        return sum(
            node.row_numbers * max(0, stop - low)
            for index, (node, stop, low) in enumerate(zip(self._nodes, state.stops, state.lows, strict=True))
            if index and index not in self._again
        )

    def _cost(self) -> float:
        """Time of a strip in the middle, in multiplications, per column of the image."""
        program = self.program(_FAR * self.stride, _FAR * self.stride + ceil_to(self.rows, self.stride))
        cost = 0.0
        copied: dict[int, float] = {}
        for step in program.steps[1:]:
            node = self._nodes[step.node]
            cost += node.row_work * step.cut.length
            moved = step.after.length + (step.before + step.cut.length if step.joined else 0)
            cost += _COPY * moved * node.row_numbers
            for take in step.takes:
                if take.length != copied.get(take.node, take.length):
                    cost += _COPY * take.length * self._nodes[take.node].row_numbers
            copied[step.node] = step.before + step.cut.length
        return cost

    @cached_property
    def kept_numbers(self) -> float:
        """Numbers that are kept between two strips, per column of the image; the image itself is read again."""
        return self._kept_numbers()

    @cached_property
    def lag(self) -> int:
        """Image rows by which the finished rows lie behind the rows fed, in the middle of an image."""
        return _FAR * self.stride - self.state(_FAR * self.stride).stops[-1]

    @cached_property
    def again(self) -> int:
        """Image rows that a strip reads above its own: the host keeps them."""
        return _FAR * self.stride - self.state(_FAR * self.stride).lows[0]

    @cached_property
    def first(self) -> int:
        """Height of the least first strip after which nothing is near the top any more.

        Raises:
            NotStreamableError: There is none: the network sees too far.
        """
        far, further = self.state(_FAR * self.stride), self.state((_FAR + 1) * self.stride)
        pace = [after - before for before, after in zip(far.stops, further.stops, strict=True)]

        def settled(strides: int) -> bool:
            state = self.state(strides * self.stride)
            return all(
                stop > 0 and low >= 0 and far.stops[index] - stop == far.lows[index] - low == (_FAR - strides) * step
                for index, (stop, low, step) in enumerate(zip(state.stops, state.lows, pace, strict=True))
            )

        for strides in range(1, _SEARCH):
            if settled(strides):
                return strides * self.stride
        raise NotStreamableError(f"it sees further than {_SEARCH * self.stride} rows")

    def heights(self, height: int) -> list[int]:
        """Rows of each node for an image of this height."""
        found: list[int] = []
        for rows, inputs in zip(self._rows, self._inputs, strict=True):
            found.append(height if not inputs else OPEN if height >= OPEN else rows.height(found[inputs[0]]))
        return found

    def state(self, fed: int, height: int = OPEN) -> State:
        """Where the nodes stand when so many rows have been fed.

        Args:
            fed: Rows fed, a multiple of the stride, from the top.
            height: Of the image; `fed` equal to it ends the image.
        """
        if fed == 0:
            return State((0,) * len(self._rows), (0,) * len(self._rows))
        if fed == height:
            full = tuple(self.heights(height))
            return State(full, full)
        stops, lows = self._stops(fed), [0] * len(self._rows)
        lows[-1] = stops[-1]
        for index in reversed(range(len(stops) - 1)):
            low = stops[index]
            for each in self._readers[index]:
                at = lows[each] if each in self._again else stops[each]
                low = min(low, self._rows[each].needs(at, at + 1).begin)
            lows[index] = low
        return State(stops, tuple(lows))

    def _stops(self, fed: int) -> tuple[int, ...]:
        """Rows of each node that have been computed then. They do not depend on `_again`, whose choice asks often."""
        key = fed, self.early
        if key not in self._found:
            able: list[int] = []
            for rows, inputs, grain in zip(self._rows, self._inputs, self._grains, strict=True):
                ready = fed if not inputs else max(0, min(rows.ready(able[each]) for each in inputs))
                able.append(floor_to(ready, grain))
            stops = list(able)
            for index in reversed(range(1, len(able) - 1)):
                if index not in self.early:
                    readers = self._readers[index]
                    wanted = [self._rows[each].needs(0, stops[each]).end for each in readers if stops[each] > 0]
                    stops[index] = min(able[index], max(wanted, default=0))
            if len(self._found) == _REMEMBERED:
                self._found.clear()
            self._found[key] = tuple(stops)
        return self._found[key]

    def program(self, begin: int, end: int, height: int = OPEN) -> Program:
        """What the strip does that is fed the rows from `begin` to `end`.

        Args:
            begin: Rows fed before.
            end: Rows fed then.
            height: Of the image.
        """
        before, after = self.state(begin, height), self.state(end, height)
        heights = self._open if height == OPEN else self.heights(height)
        held: list[Range] = [Range(max(0, before.lows[0]), end)]
        steps: list[Step] = [Step(0, (), Cut(0, 0, 0, 0))]
        for index in range(1, len(self._rows)):
            low, next_low = max(0, before.lows[index]), max(0, after.lows[index])
            again = index in self._again
            fresh = Range(low if again else before.stops[index], after.stops[index])
            kept = 0 if again else max(0, before.stops[index] - low)
            begin = max(next_low, fresh.begin)
            handed = Take(index, begin - fresh.begin, 0 if again else max(0, fresh.end - begin))
            left = max(0, min(kept, before.stops[index] - next_low))
            held.append(Range(fresh.begin - kept, fresh.end))
            takes: tuple[Take, ...] = ()
            cut = Cut(0, 0, 0, 0)
            if fresh.length:
                source = self._inputs[index][0]
                given = self._rows[index].needs(*fresh).inside(heights[source])
                cut = self._rows[index].cut(fresh, given, heights[source])
                takes = tuple(Take(each, given.begin - held[each].begin, given.length) for each in self._inputs[index])
            steps.append(Step(index, takes, cut, before=kept, after=handed, left=left))
        return Program(held[0].length, tuple(_completed(steps)), steps[-1].cut.length)


def _completed(steps: list[Step]) -> Iterator[Step]:
    """Each step with the kept rows that are read only, the results that it is the last to use, and whether its own is joined."""
    users = {step.node: step.node for step in steps}
    reads: dict[int, list[Take]] = {}
    for step in steps:
        for take in step.takes:
            users[take.node] = step.node
            reads.setdefault(take.node, []).append(take)
    ended: dict[int, list[int]] = {}
    for node, user in users.items():
        if node != len(steps) - 1:
            ended.setdefault(user, []).append(node)
    read = [_read(step.before, reads.get(step.node, [])) for step in steps]
    for step in steps:
        takes = tuple(_moved(take, steps[take.node].before, read[take.node]) for take in step.takes)
        old = read[step.node]
        # One reader of a part of both takes its rows from each; more, or one of all, share the joined rows.
        both = {take for take in reads.get(step.node, []) if take.offset < step.before < take.offset + take.length}
        whole = any(take.length == old.length + step.cut.length for take in both)
        yield step._replace(
            takes=takes,
            before=old.length,
            skip=old.begin if old.length else 0,
            joined=whole or len(both) > 1,
            last=tuple(ended.get(step.node, ())),
        )


def _read(kept: int, takes: Sequence[Take]) -> Range:
    """Which of the kept rows are read; where a reader goes on below them, up to the last."""
    above = [take for take in takes if take.offset < kept]
    if not above:
        return Range(0, 0)
    return Range(min(take.offset for take in above), min(kept, max(take.offset + take.length for take in above)))


def _moved(take: Take, kept: int, read: Range) -> Take:
    """The same rows, counted from the first of the kept rows that is read."""
    offset = take.offset - read.begin if take.offset < kept else take.offset - kept + read.length
    return take._replace(offset=offset)
