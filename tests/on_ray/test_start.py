"""Starting a local Ray on a machine that is too busy for it at first."""

from __future__ import annotations

import pytest
import ray

from microseg_ray.errors import MicrosegError
from microseg_ray.on_ray.start import start_ray
from microseg_ray.settings.ray import RaySettings


class Starts:
    """`ray.init` that fails as Ray does on a busy machine, so many times. The real one cannot be made to fail once only."""

    def __init__(self, failures: int, error: type[Exception] = RuntimeError) -> None:
        self.failures = failures
        self.error = error
        self.calls: list[str] = []

    def init(self, **_: object) -> None:
        self.calls.append("init")
        if self.calls.count("init") <= self.failures:
            raise self.error("The current node timed out during startup.")

    def shutdown(self) -> None:
        self.calls.append("shutdown")


@pytest.fixture
def starts(monkeypatch):
    def made(failures: int, error: type[Exception] = RuntimeError) -> Starts:
        own = Starts(failures, error)
        monkeypatch.delenv("RAY_ADDRESS", raising=False)
        monkeypatch.setattr(ray, "is_initialized", lambda: False)
        monkeypatch.setattr(ray, "init", own.init)
        monkeypatch.setattr(ray, "shutdown", own.shutdown)
        return own

    return made


def test_a_local_start_that_took_too_long_is_tried_once_more(starts):
    own = starts(1)
    start_ray(RaySettings())
    assert own.calls == ["init", "shutdown", "init"]


@pytest.mark.parametrize(
    ("settings", "error", "tries"),
    [({}, RuntimeError, 2), ({}, ValueError, 1), ({"address": "ray://nowhere:1"}, ConnectionError, 1)],
    ids=["twice", "a wrong setting", "a cluster that is not there"],
)
def test_what_fails_again_is_an_error_with_advice(starts, settings, error, tries):
    own = starts(9, error)
    with pytest.raises(
        MicrosegError, match=r"Ray cannot be started \(The current node timed out.*; (check|is the machine)"
    ):
        start_ray(RaySettings(**settings))
    assert own.calls.count("init") == tries
