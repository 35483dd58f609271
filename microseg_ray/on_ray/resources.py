"""What a job asks of a Ray cluster, compared with what the cluster has before any work starts."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import MicrosegError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from microseg_ray.settings import RaySettings

__all__ = ["Demand", "fitting", "nodes_with", "require", "waiting"]

LINE_SECONDS = 30.0
_POLL_SECONDS = 1.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Demand:
    """What a job runs at the same time.

    Attributes:
        processes: Processes that must run side by side.
        cpus: CPUs of each.
        gpus: GPUs of each.
        options: The options to change, for messages.
        resources: What else each takes, by the cluster's own names.
        labels: What the nodes must be labelled with.
    """

    processes: int
    cpus: float = 1.0
    gpus: float = 0.0
    options: str = "--workers"
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, processes: int, settings: RaySettings, *, cpus: float = 1.0, gpus: float = 0.0, options: str) -> Demand:
        """The demand of a job with these settings."""
        return cls(processes, cpus, gpus, options, settings.resources, settings.labels)

    @property
    def each(self) -> dict[str, float]:
        """What one process takes, as Ray names it."""
        return {"CPU": self.cpus, "GPU": self.gpus, **self.resources}

    @property
    def elsewhere(self) -> dict[str, Any]:
        """Arguments of Ray's tasks and actors for resources and labels; none where none are asked for."""
        chosen: dict[str, Any] = {"resources": dict(self.resources)} if self.resources else {}
        return chosen | ({"label_selector": dict(self.labels)} if self.labels else {})


def fitting(demand: Demand, nodes: Sequence[Mapping[str, float]]) -> int:
    """Processes of a demand that nodes have room for, where nothing else runs on them.

    Args:
        demand: What each process takes.
        nodes: The resources of each node.

    Example:
        >>> fitting(Demand(0, cpus=2.0), [{"CPU": 5.0}, {"CPU": 1.0}])
        2
        >>> fitting(Demand(0, gpus=0.4), [{"CPU": 8.0, "GPU": 2.0}])
        4
        >>> fitting(Demand(0, resources={"models": 1.0}), [{"CPU": 8.0, "models": 3.0}, {"CPU": 8.0}])
        3
    """
    return sum(min(_times(node.get(name, 0.0), each) for name, each in demand.each.items() if each) for node in nodes)


def _times(have: float, each: float) -> int:
    # Of a fraction Ray puts so many on one GPU as fit there; what is left of two is not one.
    return int(have) * int(1 / each + 1e-9) if each < 1 and have >= 1 else int(have / each + 1e-9)


def missing(demand: Demand, nodes: Sequence[dict[str, float]]) -> str:
    """What the nodes of a cluster lack for a demand; empty where it fits.

    Args:
        demand: What is asked for.
        nodes: The resources of each node that is alive, as Ray names them.

    Example:
        >>> missing(Demand(2, gpus=1.0, options="--workers, --gpu"), [{"CPU": 8.0, "GPU": 1.0}])
        '2 GPUs are asked for (2 processes of 1), the cluster has 1'
        >>> missing(Demand(1, cpus=4.0), [{"CPU": 2.0}, {"CPU": 2.0}])
        'a process asks for 4 CPUs at once, the largest node has 2'
        >>> missing(Demand(2, gpus=0.6), [{"CPU": 2.0, "GPU": 1.5}])
        '2 processes of 1 CPU, 0.6 GPU are asked for, the nodes have room for 1'
        >>> missing(Demand(2), [{"CPU": 2.0}])
        ''
    """
    if demand.labels and not nodes:
        wanted_labels = ", ".join(f"{key}={value}" for key, value in demand.labels.items())
        return f"no node is labelled {wanted_labels} (ray.labels)"
    for name, each in demand.each.items():
        have = [float(node.get(name, 0.0)) for node in nodes]
        total, largest = sum(have), max(have, default=0.0)
        wanted = each * demand.processes
        if each and wanted > total + 1e-9:
            plural = "" if wanted == 1 or name not in {"CPU", "GPU"} else "s"
            verb = "is" if wanted == 1 else "are"
            whom = "1 process" if demand.processes == 1 else f"{demand.processes} processes"
            return f"{wanted:g} {name}{plural} {verb} asked for ({whom} of {each:g}), the cluster has {total:g}"
        if each > largest + 1e-9:
            return f"a process asks for {each:g} {name}s at once, the largest node has {largest:g}"
    room = fitting(demand, nodes)
    if room < demand.processes and (demand.resources or 0 < demand.gpus < 1):
        asked = ", ".join(f"{each:g} {name}" for name, each in demand.each.items() if each)
        return f"{demand.processes} processes of {asked} are asked for, the nodes have room for {room}"
    return ""


def require(demand: Demand, settings: RaySettings) -> None:
    """Refuse a demand that the cluster cannot meet; wait `ray.wait` seconds for a cluster that grows.

    Args:
        demand: What is asked for.
        settings: Where Ray runs.

    Raises:
        MicrosegError: The cluster lacks something, and still does after `ray.wait` seconds; the message names it.
    """
    lack = missing(demand, nodes_with(demand.labels))
    if not lack:
        return
    if settings.wait:
        _ask_autoscaler(demand)
        lack = _wait(demand, settings.wait)
    if lack:
        advice = f"change {demand.options}, or join a larger cluster (--ray.address)"
        grows = "" if settings.wait else "; --ray.wait SECONDS waits for a cluster that grows by itself"
        raise MicrosegError(f"Ray: {lack}; {advice}{grows}")


def nodes_with(labels: Mapping[str, str]) -> list[dict[str, float]]:
    """The resources of each node that is alive and has these labels."""
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    return [dict(node["Resources"]) for node in alive if labels.items() <= node.get("Labels", {}).items()]


def _ask_autoscaler(demand: Demand) -> None:
    from ray.autoscaler.sdk import request_resources

    bundle: dict[str, Any] = {name: each for name, each in demand.each.items() if each}
    selectors = [dict(demand.labels)] * demand.processes if demand.labels else None
    request_resources(bundles=[bundle] * demand.processes, bundle_label_selectors=selectors)


def _wait(demand: Demand, seconds: float) -> str:
    began = said = time.monotonic()
    lack = missing(demand, nodes_with(demand.labels))
    _log.warning("waiting at most %g s for the cluster to grow: %s", seconds, lack)
    while lack and time.monotonic() - began < seconds:
        time.sleep(min(_POLL_SECONDS, seconds))
        lack = missing(demand, nodes_with(demand.labels))
        if lack and time.monotonic() - said >= LINE_SECONDS:
            said = time.monotonic()
            _log.warning("still waiting after %.0f s: %s", said - began, lack)
    return lack


@contextmanager
def waiting(what: str, seconds: float = LINE_SECONDS) -> Iterator[Callable[[], None]]:
    """Write a line every 30 s until work has started, so that a wait is visible.

    Args:
        what: What is waited for.
        seconds: Between two lines.

    Yields:
        A function to call when work has started.
    """
    started = threading.Event()

    def watch() -> None:
        began = time.monotonic()
        while not started.wait(seconds):
            _log.warning(
                "waiting for %s since %.0f s; is the cluster busy with other jobs?", what, time.monotonic() - began
            )

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield started.set
    finally:
        started.set()
        thread.join()
