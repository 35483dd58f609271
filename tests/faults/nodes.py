"""Jobs on a Ray cluster of several nodes on one machine: `python -m tests.faults.nodes FOLDER`, in a process of its own.

`FOLDER/plan.json` says what is done. Every node has one CPU, so each worker is alone on its node. What was done on which
node is written to `FOLDER/seen.json`. The worker on the head's node waits for the others where it would do all the work
before they have started, so that no moment is left to chance.
"""

from __future__ import annotations

import json
import sys
import time
import uuid
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from ray import cloudpickle
from ray.cluster_utils import Cluster

from microseg_ray.on_ray.actors import segment
from microseg_ray.on_ray.rows import dataset_mapper
from microseg_ray.on_ray.start import start_ray
from microseg_ray.settings import RaySettings, SegmentSettings, TileSettings
from microseg_ray.tiles import make
from tests.faults import model_free

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from microseg_ray.tiles.mapping import Mapper, Report

HOLD_SECONDS = 60.0
MEMORY = 80 * 1024**2
SHARE = 4
"""The head's node does at most so many times what the others did, and one."""
BEFORE_REMOVAL = 2
"""What a node does before it is removed."""


@dataclass
class Place:
    """Where the nodes note what they have done; it goes to the workers."""

    folder: Path
    head: str

    def done(self) -> dict[str, int]:
        """How much each node has done."""
        return {node.name: len(list(node.iterdir())) for node in (self.folder / "nodes").iterdir()}

    def note(self) -> None:
        node = self.folder / "nodes" / ray.get_runtime_context().get_node_id()
        node.mkdir(exist_ok=True)
        (node / uuid.uuid4().hex).touch()

    def hold_back(self) -> None:
        self.await_newest()
        deadline = time.monotonic() + HOLD_SECONDS
        while ray.get_runtime_context().get_node_id() == self.head and time.monotonic() < deadline:
            done = self.done()
            if done.pop(self.head, 0) < SHARE * (1 + sum(done.values())) or (self.folder / "alone").exists():
                return
            time.sleep(0.05)

    def await_newest(self) -> None:
        """Wait on every other node until the newest one has done something, where a plan says so."""
        deadline = time.monotonic() + HOLD_SECONDS
        newest = self.folder / "newest"
        while newest.exists() and time.monotonic() < deadline:
            awaited = newest.read_text()
            if ray.get_runtime_context().get_node_id() == awaited or self.done().get(awaited):
                return
            time.sleep(0.05)


@dataclass
class Nodes:
    """The head, whose node the driver is on, and one node after another beside it."""

    cluster: Cluster
    place: Place
    removals: int
    replace: bool
    grow: bool
    awaited: bool = False
    named: dict[str, Any] = field(default_factory=dict)
    current: Any = None
    removed: list[str] = field(default_factory=list)
    added: list[str] = field(default_factory=list)

    def add(self) -> None:
        self.current = self.cluster.add_node(num_cpus=1, object_store_memory=MEMORY, **self.named)
        self.added.append(self.current.node_id)

    def change(self, *_: object) -> None:
        """Called after each outcome: remove or add a node if it is time."""
        done = self.place.done().get(self.current.node_id, 0)
        if self.grow and done >= BEFORE_REMOVAL:
            self.grow = False
            self.add()
            if self.awaited:
                partial_name = self.place.folder / "newest.partial"
                partial_name.write_text(self.current.node_id)
                partial_name.replace(self.place.folder / "newest")
        elif len(self.removed) < self.removals and done >= BEFORE_REMOVAL:
            self.removed.append(self.current.node_id)
            # Its processes are killed, as when a machine loses its power.
            self.cluster.remove_node(self.current, allow_graceful=False)
            if self.replace:
                self.add()
            else:
                (self.place.folder / "alone").touch()


class Noting(model_free.Quick):
    """The quick worker, which notes its node."""

    place: Place

    def _shard(self, task: Any) -> Any:
        self.place.hold_back()
        result = super()._shard(task)
        self.place.note()
        return result


@dataclass
class NotingStep:
    """A step of the tile job, which notes its node."""

    step: Callable[[Any], Any]
    place: Place

    def __call__(self, task: Any) -> Any:
        self.place.hold_back()
        result = self.step(task)
        self.place.note()
        return result


def run_segment(nodes: Nodes, given: dict[str, Any], on: RaySettings) -> dict[str, Any]:
    Noting.place = nodes.place
    # Where Ray runs is known to this process only.
    result = segment(SegmentSettings(**{**given, "ray": on}), nodes.change, partial(start_ray, on), Noting)
    return {"work": result.ledger.computed, "failures": [str(failure) for failure in result.ledger.failures]}


def run_tile(nodes: Nodes, given: dict[str, Any], on: RaySettings) -> dict[str, Any]:
    def changing(report: Report, workers: int) -> Mapper:
        def reported(stage: str, done: int, total: int) -> None:
            nodes.change()
            report(stage, done, total)

        mapped = dataset_mapper(partial(start_ray, on), on, reported, workers)

        def run(step: Callable[[Any], Any], tasks: Sequence[Any], stage: str, /) -> list[Any]:
            return mapped(NotingStep(step, nodes.place), tasks, stage)

        return run

    tiled = make.tile(TileSettings(**given), lambda *_: None, changing)
    return {"work": tiled.written, "failures": [str(failure) for failure in tiled.failures]}


def started(tries: int = 3) -> Cluster:
    """A cluster of a head; tried again where the machine is too busy for the 30 s that Ray gives itself."""
    head = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
    for left in reversed(range(tries)):
        try:
            return Cluster(initialize_head=True, head_node_args=head)
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise
    raise AssertionError("unreachable")


def main(folder: Path) -> None:
    for module in (sys.modules[__name__], model_free):
        cloudpickle.register_pickle_by_value(module)  # workers know no test modules
    plan = json.loads((folder / "plan.json").read_text())
    (folder / "nodes").mkdir()
    cluster = started()
    try:
        place = Place(folder, cluster.head_node.node_id)
        nodes = Nodes(cluster, place, plan["removals"], plan["replace"], plan["grow"])
        nodes.awaited, nodes.named = plan["awaited"], plan["named"]
        nodes.add()
        on = RaySettings(**{**plan["settings"].get("ray", {}), "address": cluster.address})
        runs = {"segment": run_segment, "tile": run_tile}
        seen = runs[plan["job"]](nodes, plan["settings"], on)
        seen |= {"done": place.done(), "head": place.head, "removed": nodes.removed, "added": nodes.added}
        (folder / "seen.json").write_text(json.dumps(seen))
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
