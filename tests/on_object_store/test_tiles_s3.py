"""Tile stores in an object store: the same shards and tables as in a folder, whoever writes them and whatever dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from datetime import timedelta

import numpy as np
import pytest

from microseg_ray.errors import StoreError
from microseg_ray.models.checkpoint import load_checkpoint
from microseg_ray.tiles import make
from microseg_ray.tiles.store import TileStore
from tests.on_object_store.faulty import KINDS, Faults, FaultyProxy

OF_THE_PLACE = {"tiles.zarr/zarr.json"}
"""What names the files that the tiles were made of."""


def command(place, *more: object, output: str = "tiles") -> list[str]:
    where = ("--images", place / "in" / "images", "--masks", place / "in" / "masks", "--output", place / output)
    classes = ("--classes", "matrix", "--classes", "grain", "--classes", "pore")
    options = (*classes, "--tile", 32, "--overlap", 8, "--fingerprint", "content", *more)
    return [str(each) for each in ("tile", *where, *options)]


@pytest.fixture
def places(new_pairs, bucket, sent, tmp_path):
    """Micrographs and masks in `in`, in a folder and in the store."""
    new_pairs(tmp_path / "in", 1)
    sent(tmp_path / "in", bucket / "in")
    return tmp_path, bucket


def test_tile_writes_the_same_shards(places, objects_of, microseg, secret, monkeypatch):
    here, there = places
    monkeypatch.setattr("microseg_ray.tiles.spec.TARGET_SHARD_BYTES", 20_000)
    for place in places:
        made = microseg(*command(place, "--workers", 0))
        assert made.code == 0, made.err
    local, remote = objects_of(here / "tiles"), objects_of(there / "tiles")
    assert local.keys() == remote.keys()
    assert {name for name in local if local[name] != remote[name]} == OF_THE_PLACE
    again = microseg(*command(there, "--workers", 0))
    assert "the store is up to date: nothing to do" in again.out
    assert objects_of(there / "tiles") == remote
    stores = [TileStore.open(place / "tiles") for place in places]
    assert stores[1].spec.shards > 1
    chosen = np.random.default_rng(0).integers(0, stores[0].spec.tiles, 20)
    for expected, found in zip(*(store.read(chosen) for store in stores), strict=True):
        assert np.array_equal(expected, found)
    assert not stores[1].stale()
    assert secret not in json.dumps(stores[1].made_from) + made.out + made.err
    (there / "tiles" / "tiles.zarr" / "images" / "c" / "0" / "0" / "0" / "0").write(b"damaged")
    with pytest.raises(StoreError, match="images cannot be read"):
        stores[1].read(np.array([0]))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "microseg_ray.cli", *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_tile_job_is_done_again_and_grows_with_the_same_bytes(places, new_pairs, sent, objects_of, secret):
    """SIGKILL while shards are written, the same command, then `--append` of more micrographs."""
    here, there = places
    assert run(*command(here, "--workers", 0)).returncode == 0
    with (here / "said.txt").open("w") as said:
        killed = subprocess.Popen(
            [sys.executable, "-m", "microseg_ray.cli", *command(there, "--workers", 0)], stdout=said, stderr=said
        )
        while not (there / "tiles" / "tiles.zarr" / "zarr.json").exists():
            assert killed.poll() is None, (here / "said.txt").read_text()
            time.sleep(0.02)
        os.kill(killed.pid, signal.SIGKILL)
        killed.wait()
    assert not (there / "tiles" / "tiles.parquet").exists()
    with pytest.raises(StoreError, match="did not finish; run it again"):
        TileStore.open(there / "tiles")
    second = run(*command(there, "--workers", 0))
    assert second.returncode == 0, second.stderr[-2000:]
    new_pairs(here / "in", 2)
    sent(here / "in", there / "in")
    for place in places:
        grown = run(*command(place, "--workers", 0, "--append"))
        assert grown.returncode == 0, grown.stdout + grown.stderr[-2000:]
        assert "tiles were appended" in grown.stdout
    local, remote = objects_of(here / "tiles"), objects_of(there / "tiles")
    assert local.keys() == remote.keys()
    assert {name for name in local if local[name] != remote[name]} == {*OF_THE_PLACE, "tiles.parquet"}
    assert TileStore.open(here / "tiles").table.equals(TileStore.open(there / "tiles").table)
    for text in ((here / "said.txt").read_text(), second.stdout + second.stderr, grown.stdout + grown.stderr):
        assert secret not in text


@pytest.mark.slow
def test_train_reads_tiles_from_the_store(places, microseg, monkeypatch):
    """The same weights as from a folder, with tiles that are held in memory and read batch by batch."""
    here, there = places
    for place in places:
        assert microseg(*command(place, "--workers", 0)).code == 0
    weights = []
    options = (
        "--epochs",
        1,
        "--batch",
        4,
        "--workers",
        0,
        "--model.name",
        "unet",
        "--model.depth",
        2,
        "--model.width",
        4,
    )
    for number, (place, held) in enumerate(((here, True), (there, True), (there, False))):
        if not held:
            monkeypatch.setattr("microseg_ray.fitting.batches.Tiles.__init__.__defaults__", (0,))
        trained = microseg("train", "--tiles", place / "tiles", "--output", here / f"model-{number}", *options)
        assert trained.code == 0, trained.err
        weights.append(load_checkpoint(here / f"model-{number}" / "last")[0].state_dict())
    for name, expected in weights[0].items():
        assert all((other[name] == expected).all() for other in weights[1:]), name


def test_a_store_that_goes_away_costs_no_micrograph(places, server, microseg, monkeypatch):
    """Tiles without the micrographs of an outage would be another training set."""
    _, there = places
    monkeypatch.setattr("microseg_ray.files.client._TRIES", 1)
    # A lock that could not be given back runs out.
    for name, seconds in (("BEAT_SECONDS", 0.1), ("LEASE_SECONDS", 1.0), ("GRACE_SECONDS", 0.1)):
        monkeypatch.setattr(f"microseg_ray.files.lease.{name}", seconds)
    real = make.survey

    def survey(task):
        if task.pair.name.startswith("0_b"):
            monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        return real(task)

    monkeypatch.setattr(make, "survey", survey)
    stopped = microseg(*command(there, "--workers", 0))
    assert stopped.code == 1
    assert "the object store did not do what was asked" in stopped.err
    assert "run the same command again" in stopped.err
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    monkeypatch.setattr(make, "survey", real)
    assert microseg(*command(there, "--workers", 0)).code == 0


@pytest.mark.slow
def test_tiles_through_a_faulty_store_have_the_same_bytes(places, server, microseg, objects_of, monkeypatch):
    here, there = places
    assert microseg(*command(here, "--workers", 0)).code == 0
    monkeypatch.setattr("microseg_ray.files.client._ANSWER", timedelta(seconds=2))
    monkeypatch.setattr("microseg_ray.files.client._LONGEST_PAUSE", timedelta(milliseconds=300))
    proxy = FaultyProxy(server.url, Faults(share=0.15, stall=2.5, seed=7))
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    made = microseg(*command(there, "--workers", 0))
    proxy.shutdown()
    proxy.server_close()
    assert made.code == 0, made.err
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    local, remote = objects_of(here / "tiles"), objects_of(there / "tiles")
    assert {name for name in local if local[name] != remote[name]} == OF_THE_PLACE
    assert set(proxy.faults.injected) == set(KINDS), proxy.faults.injected
