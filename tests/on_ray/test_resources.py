"""A job asks the cluster before it works: what is missing is named, and a wait is announced."""

from __future__ import annotations

import logging
import re
import time
from fractions import Fraction
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from microseg_ray.errors import MicrosegError
from microseg_ray.on_ray import resources
from microseg_ray.on_ray.resources import Demand, fitting, missing, require, waiting
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
        (
            Demand(2, gpus=0.6),
            [{"CPU": 4.0, "GPU": 1.0}],
            "1.2 GPUs are asked for (2 processes of 0.6), the cluster has 1",
        ),
        (
            Demand(3, gpus=0.6),
            [{"CPU": 4.0, "GPU": 2.0}],
            "3 processes of 1 CPU, 0.6 GPU are asked for, the nodes have room for 2",
        ),
        (
            Demand(2, resources={"models": 1.0}),
            [{"CPU": 2.0, "models": 1.0}, {"CPU": 2.0}],
            "2 models are asked for (2 processes of 1), the cluster has 1",
        ),
        (
            Demand(3, resources={"models": 0.5}),
            [{"CPU": 2.0, "models": 4.0}, {"CPU": 8.0}],
            "3 processes of 1 CPU, 0.5 models are asked for, the nodes have room for 2",
        ),
        (Demand(1, labels={"kind": "large"}), [], "no node is labelled kind=large (ray.labels)"),
    ],
)
def test_what_a_cluster_lacks_is_named(demand: Demand, nodes: list[dict[str, float]], lack: str) -> None:
    assert missing(demand, nodes) == lack


def test_a_demand_that_cannot_be_met_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "nodes_with", lambda _: [{"CPU": 2.0}])
    monkeypatch.delattr(resources, "_wait")
    with pytest.raises(MicrosegError, match=r"1 GPU is asked for.*the cluster has 0; change --gpu.*--ray\.wait"):
        require(Demand(1, gpus=1.0, options="--gpu"), RaySettings())


def test_a_cluster_that_grows_is_waited_for_with_lines(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    nodes = [[{"CPU": 2.0}]] * 4 + [[{"CPU": 8.0}]]
    monkeypatch.setattr(resources, "nodes_with", lambda _: nodes.pop(0) if len(nodes) > 1 else nodes[0])
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


@given(
    each=st.fractions(Fraction(1, 8), 1, max_denominator=8),
    gpus=st.lists(st.integers(0, 4), min_size=1, max_size=4),
    cpus=st.integers(1, 6),
)
def test_what_fits_is_what_placing_one_after_another_finds(each, gpus, cpus):
    """A process takes its fraction of one GPU and one CPU of the same node."""
    placed = 0
    for count in gpus:
        left, free = [Fraction(1)] * count, cpus
        while free and any(part >= each for part in left):
            index = next(number for number, part in enumerate(left) if part >= each)
            left[index] -= each
            free -= 1
            placed += 1
    nodes = [{"CPU": float(cpus), "GPU": float(count)} for count in gpus]
    assert fitting(Demand(0, gpus=float(each)), nodes) == placed


@pytest.mark.parametrize(
    ("given_ray", "message"),
    [
        ({"resources": {"GPU": 1}}, "GPU: gpu and worker_gpus say how many"),
        ({"resources": {"models": 1.5}}, "1.5 is not possible: give a fraction of at most 1, or a whole number"),
        ({"resources": {"models": 0}}, "greater than 0"),
        ({"labels": {"kind": "a b"}}, "kind: 'a b' is no value of a label"),
        ({"labels": {"-kind": "a"}}, "'-kind' is no key of a label"),
    ],
)
def test_settings_that_ray_would_refuse_later_are_refused(given_ray, message):
    with pytest.raises(ValidationError, match=re.escape(message)):
        RaySettings(**given_ray)
