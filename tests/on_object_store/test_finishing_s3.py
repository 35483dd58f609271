"""A large mask in an object store is finished in pieces, with the bytes of one in a folder that is finished at once."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile

from microseg_ray.on_ray.actors import segment
from microseg_ray.runs import finishing
from tests.faults.model_free import Quick
from tests.on_object_store.test_segment_s3 import OF_THE_PLACE, settings


@pytest.mark.slow
def test_in_pieces_in_a_bucket(checkpoint, bucket, objects_of, tmp_path, monkeypatch):
    pixels = np.random.default_rng(3).integers(0, 256, (69, 45), dtype=np.uint8).repeat(16, 0).repeat(16, 1)
    (tmp_path / "in").mkdir()
    tifffile.imwrite(tmp_path / "in/a.tif", pixels)
    segment(settings(tmp_path / "in", checkpoint, tmp_path / "run", path="tiles"), worker_class=Quick)
    monkeypatch.setattr(finishing, "PIECE", 2)
    there = segment(settings(tmp_path / "in", checkpoint, bucket / "run", path="tiles"), worker_class=Quick)
    assert not there.ledger.failures
    assert '"event": "pyramid"' in (bucket / "run" / "logs" / "segment.jsonl").read_text()
    local, remote = objects_of(tmp_path / "run"), objects_of(bucket / "run")
    assert {name for name in local | remote if local.get(name) != remote.get(name)} == OF_THE_PLACE
