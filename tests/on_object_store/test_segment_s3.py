"""Segmentation from and to an object store: the same bytes as in a folder, whoever computes and whatever dies."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from microseg_ray.errors import SettingsError
from microseg_ray.on_ray.actors import segment
from microseg_ray.runs.folder import Run
from microseg_ray.settings import SegmentSettings, settings_from

OF_THE_PLACE = {"run.json"}
"""What names paths."""


def settings(archive, checkpoint, output, **options) -> SegmentSettings:
    # A fingerprint by time and size is another one in a store.
    chosen = {"shard": 256, "workers": 0, "fingerprint": "content"}
    where = {"archive": str(archive), "checkpoint": str(checkpoint), "output": str(output)}
    return SegmentSettings(**{**where, **chosen, **options})


def test_a_run_in_a_bucket_has_the_bytes_of_one_in_a_folder(
    archive, checkpoint, bucket, secret, sent, objects_of, tmp_path
):
    sent(archive, bucket / "in")
    here = segment(settings(archive, checkpoint, tmp_path / "run"))
    there = segment(settings(bucket / "in", checkpoint, bucket / "run"))
    assert there.ledger.computed == here.ledger.computed
    assert not there.ledger.failures
    assert list(there.areas) == list(here.areas)
    local, remote = objects_of(tmp_path / "run"), objects_of(bucket / "run")
    assert local.keys() == remote.keys()
    assert {name for name in local if local[name] != remote[name]} == OF_THE_PLACE
    again = segment(settings(bucket / "in", checkpoint, bucket / "run"))
    assert again.ledger.computed == 0
    assert again.ledger.kept == Run.open(bucket / "run").names() == here.run.names()
    assert objects_of(bucket / "run").items() >= {name: local[name] for name in local.keys() - OF_THE_PLACE}.items()
    for path in bucket.below():
        assert secret.encode() not in (bucket / path["path"]).read_bytes(), path["path"]
    log = (bucket / "run" / "logs" / "segment.jsonl").read_text().splitlines()
    assert [json.loads(line)["event"] for line in log].count("shard") == here.ledger.computed


@pytest.mark.parametrize("field", ["checkpoint", "source.pixel_sizes"])
def test_an_address_where_a_folder_is_needed_is_refused(archive, checkpoint, tmp_path, field):
    section, _, key = field.rpartition(".")
    given = {"archive": str(archive), "checkpoint": str(checkpoint), "output": str(tmp_path / "run")}
    wanted = {section: {key: "s3://bucket/x"}} if section else {key: "s3://bucket/x"}
    with pytest.raises(SettingsError, match=rf"{field}: segment takes a folder or file here.*archive, output"):
        settings_from(SegmentSettings, {**given, **wanted})


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_ray_worker_writes_the_same_bytes(archive, checkpoint, bucket, sent, objects_of, tmp_path):
    """With a Ray of its own, which takes the credentials from the job's environment; two workers: test_faults.py."""
    sent(archive, bucket / "in")
    segment(settings(archive, checkpoint, tmp_path / "run"))
    command = [
        *(sys.executable, "-m", "microseg_ray.cli", "segment", "--archive", str(bucket / "in"), "--shard", "256"),
        *("--checkpoint", str(checkpoint), "--output", str(bucket / "run"), "--fingerprint", "content"),
        *("--workers", "1", "--runtime", "torch"),
    ]
    there = subprocess.run(command, capture_output=True, text=True, check=False)
    assert there.returncode == 0, there.stderr[-2000:]
    local, remote = objects_of(tmp_path / "run"), objects_of(bucket / "run")
    assert local.keys() == remote.keys()
    assert {name for name in local if local[name] != remote[name]} == OF_THE_PLACE
