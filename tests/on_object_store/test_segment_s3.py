"""Segmentation from and to an object store: the same bytes as in a folder, whoever computes and whatever dies."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from microseg_ray.errors import SettingsError
from microseg_ray.on_ray.actors import segment
from microseg_ray.runs.folder import Run
from microseg_ray.settings import SegmentSettings, TrainSettings, settings_from

OF_THE_PLACE = {"run.json"}
"""What names paths."""
SHARDS = 15


def settings(archive, checkpoint, output, **options) -> SegmentSettings:
    # A fingerprint by time and size is another one in a store.
    chosen = {"shard": 256, "workers": 0, "fingerprint": "content"}
    where = {"archive": str(archive), "checkpoint": str(checkpoint), "output": str(output)}
    return SegmentSettings(**{**where, **chosen, **options})


def test_a_run_in_a_bucket_has_the_bytes_of_one_in_a_folder(local_run, stored, bucket, secret, objects_of):
    """Archive, checkpoint and run in the store."""
    wanted = settings(stored / "archive", stored / "best", bucket / "run")
    there = segment(wanted)
    assert there.ledger.computed == SHARDS
    assert not there.ledger.failures
    local, remote = objects_of(local_run), objects_of(bucket / "run")
    assert local.keys() == remote.keys()
    assert {name for name in local if local[name] != remote[name]} == OF_THE_PLACE
    here = Run.open(local_run)
    assert there.run.identity == here.identity
    assert there.run.document["checkpoint"] == str(stored / "best")
    again = segment(wanted)
    assert again.ledger.computed == 0
    assert again.ledger.kept == Run.open(bucket / "run").names() == here.names()
    assert objects_of(bucket / "run").items() >= {name: local[name] for name in local.keys() - OF_THE_PLACE}.items()
    for path in bucket.below():
        assert secret.encode() not in (bucket / path["path"]).read_bytes(), path["path"]
    log = (bucket / "run" / "logs" / "segment.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in log].count("shard") == SHARDS


def test_an_address_where_a_folder_is_needed_is_refused():
    with pytest.raises(SettingsError, match=r"init_from: train takes a folder or file here"):
        settings_from(TrainSettings, {"tiles": "tiles", "output": "model", "init_from": "s3://bucket/x"})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_ray_worker_writes_the_same_bytes(local_run, stored, bucket, objects_of):
    """With a Ray of its own, which takes the credentials from the job's environment; two workers: test_faults.py."""
    command = [
        *(sys.executable, "-m", "microseg_ray.cli", "segment", "--archive", str(stored / "archive"), "--shard", "256"),
        *("--checkpoint", str(stored / "best"), "--output", str(bucket / "run"), "--fingerprint", "content"),
        *("--workers", "1", "--runtime", "torch"),
    ]
    there = subprocess.run(command, capture_output=True, text=True, check=False)
    assert there.returncode == 0, there.stderr[-2000:]
    local, remote = objects_of(local_run), objects_of(bucket / "run")
    assert local.keys() == remote.keys()
    assert {name for name in local if local[name] != remote[name]} == OF_THE_PLACE
