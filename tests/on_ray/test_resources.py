"""A job asks the cluster before it works: what is missing is named, and a wait is announced."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import pytest

from microseg_ray.errors import MicrosegError
from microseg_ray.on_ray import resources
from microseg_ray.on_ray.resources import Demand, missing, require, waiting
from microseg_ray.on_ray.start import short_temporary_folder
from microseg_ray.settings import RaySettings

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("demand", "nodes", "lack"),
    [
        (Demand(2), [{"CPU": 2.0}], ""),
        (Demand(3), [{"CPU": 2.0}], "3 CPUs are asked for (3 processes of 1), the cluster has 2"),
        (Demand(1, gpus=1.0), [{"CPU": 2.0}], "1 GPU is asked for (1 process of 1), the cluster has 0"),
        (Demand(2, gpus=0.5), [{"CPU": 2.0, "GPU": 1.0}], ""),
        (
            Demand(1, cpus=4.0),
            [{"CPU": 2.0}, {"CPU": 2.0}],
            "a process asks for 4 CPUs at once, the largest node has 2",
        ),
        (Demand(2, gpus=1.0), [{"CPU": 4.0, "GPU": 1.0}, {"CPU": 4.0, "GPU": 1.0}], ""),
        (Demand(1), [], "1 CPU is asked for (1 process of 1), the cluster has 0"),
    ],
)
def test_what_a_cluster_lacks_is_named(demand: Demand, nodes: list[dict[str, float]], lack: str) -> None:
    assert missing(demand, nodes) == lack


def test_a_demand_that_cannot_be_met_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_nodes", lambda: [{"CPU": 2.0}])
    monkeypatch.delattr(resources, "_wait")
    with pytest.raises(MicrosegError, match=r"1 GPU is asked for.*the cluster has 0; change --gpu.*--ray\.wait"):
        require(Demand(1, gpus=1.0, options="--gpu"), RaySettings())


def test_a_cluster_that_grows_is_waited_for_with_lines(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    nodes = [[{"CPU": 2.0}]] * 4 + [[{"CPU": 8.0}]]
    monkeypatch.setattr(resources, "_nodes", lambda: nodes.pop(0) if len(nodes) > 1 else nodes[0])
    monkeypatch.setattr(resources, "_ask_autoscaler", lambda _: None)
    monkeypatch.setattr(resources, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(resources, "LINE_SECONDS", 0.0)
    with caplog.at_level(logging.WARNING):
        require(Demand(4), RaySettings(wait=5))
    assert "waiting at most 5 s for the cluster to grow: 4 CPUs are asked for" in caplog.text
    assert "still waiting" in caplog.text
    with pytest.raises(MicrosegError, match="9 CPUs are asked for"):
        require(Demand(9), RaySettings(wait=0.05))


def test_a_wait_is_announced_until_work_starts(caplog) -> None:
    with caplog.at_level(logging.WARNING), waiting("2 workers", 0.01) as started:
        while len(caplog.records) < 2:
            time.sleep(0.01)
        assert "waiting for 2 workers since" in caplog.text
        started()
        lines = len(caplog.records)
        time.sleep(0.1)
    # One line may have been on its way; ten would have followed.
    assert len(caplog.records) <= lines + 1


def test_a_temporary_path_too_long_for_sockets_gets_a_short_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", "/tmp")
    assert short_temporary_folder() is None
    monkeypatch.setenv("TMPDIR", str(tmp_path / ("x" * 80)))
    folder = short_temporary_folder()
    assert folder is not None
    assert len(folder) < 30
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / ("é" * 40)))
    assert short_temporary_folder() == folder
