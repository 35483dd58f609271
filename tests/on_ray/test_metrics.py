"""Metrics of a pool as Prometheus reads them from a node's port."""

from __future__ import annotations

import re
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from microseg_ray.on_ray.actors import segment
from microseg_ray.on_ray.metrics import PoolMetrics
from microseg_ray.runs.tasks import BandTask, Outcome, PrepareTask, ShardTask
from microseg_ray.settings import SegmentSettings
from microseg_ray.sources import View

pytestmark = pytest.mark.ray


def scraped(wanted, seconds=60.0):
    """The metrics of the node by name, once `wanted` is there; they come every few seconds."""
    import ray

    node = ray.nodes()[0]
    url = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    until = time.monotonic() + seconds
    found: dict[str, float] = {}
    while time.monotonic() < until:
        try:
            text = urllib.request.urlopen(url, timeout=5).read().decode()
        except (urllib.error.URLError, TimeoutError):
            text = ""
        found = {}
        for name, value in re.findall(r"^ray_(microseg_\w+)\{[^\n]*\} ([\d.e+]+)$", text, flags=re.MULTILINE):
            found[name.removesuffix("_total")] = found.get(name.removesuffix("_total"), 0.0) + float(value)
        if all(found.get(name, 0.0) >= value for name, value in wanted.items()):
            return found
        time.sleep(1)
    return found


def test_bytes_are_the_pixels_of_the_shards(ray_session, monkeypatch):
    counted: dict[str, float] = {}
    metrics = PoolMetrics(64)
    for name in ("_shards", "_bytes", "_failures"):
        counter = getattr(metrics, name)
        monkeypatch.setattr(
            counter, "inc", lambda value=1.0, name=name: counted.update({name: counted.get(name, 0) + value})
        )
    view = View((100, 70))
    shard = ShardTask("a", "", "", view, (0.0, 1.0), (1, 1))
    band = BandTask("a", "", "", view, (0.0, 1.0), ((0, 0), (0, 1)))
    prepared = PrepareTask("a", "", "")
    metrics.done(
        [Outcome(shard, ok=True), Outcome(band, ok=True), Outcome(prepared, ok=True), Outcome(shard, ok=False)]
    )
    assert counted == {"_shards": 3, "_bytes": 36 * 6 + 64 * 70, "_failures": 1}


@pytest.mark.slow
def test_a_run_is_seen_by_prometheus(ray_session, checkpoint, tmp_path):
    (tmp_path / "images").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (100, 70), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "images/a.png")
    (tmp_path / "images/bad.png").write_bytes(b"")
    chosen = {"archive": str(tmp_path / "images"), "checkpoint": str(checkpoint), "output": str(tmp_path / "run")}
    segment(SegmentSettings(**chosen, workers=1, shard=64, path="tiles"))
    found = scraped({"microseg_shards": 4, "microseg_mask_bytes": 7000, "microseg_failures": 1})
    assert found["microseg_shards"] == 4
    assert found["microseg_mask_bytes"] == 7000
    assert found["microseg_failures"] == 1
    assert {"microseg_tasks_in_flight", "microseg_oldest_task_seconds"} <= set(found)
