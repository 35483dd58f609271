"""The soak injects what it says, and finds what is lost."""

import json
import random

import pytest

from benchmarks.__main__ import main
from benchmarks.soak import _complaint, _differences
from benchmarks.soak_faults import damage, damageable, remove, rewrite, tree
from benchmarks.soak_jobs import HARMS, Ended


@pytest.mark.parametrize("harm", HARMS)
def test_damage_is_damage_and_is_seen(harm, tmp_path):
    chunk = tmp_path / "masks/a.tif.zarr/0/c/0/1"
    chunk.parent.mkdir(parents=True)
    chunk.write_bytes(bytes(range(100)))
    (tmp_path / "masks/a.tif.zarr/0/zarr.json").write_text("{}")
    assert damageable(tmp_path, "shard") == [chunk]
    assert [path.name for path in damageable(tmp_path, "metadata")] == ["zarr.json"]
    before = tree(tmp_path)
    damage(chunk, harm, random.Random(3))
    assert _differences(before, tmp_path) == ["different: masks/a.tif.zarr/0/c/0/1"]
    chunk.rename(chunk.with_name("2"))
    assert _differences(before, tmp_path) == [
        "missing: masks/a.tif.zarr/0/c/0/1",
        "left over: masks/a.tif.zarr/0/c/0/2",
    ]


@pytest.mark.parametrize("harm", [lambda path: rewrite(path, random.Random(1)), remove])
def test_a_micrograph_is_put_back_with_its_times(harm, tmp_path):
    path = tmp_path / "images/a.tif"
    path.parent.mkdir()
    path.write_bytes(bytes(1000))
    status = path.stat()
    put_back = harm(path)
    assert not path.exists() or path.read_bytes() != bytes(1000)
    put_back()
    assert path.read_bytes() == bytes(1000)
    assert path.stat().st_mtime_ns == status.st_mtime_ns


def test_where_and_how_a_job_ran_is_no_difference(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        record = json.dumps({"settings": {"output": name, "workers": 2, "shard": 8}})
        (tmp_path / name / "run.json").write_text(record)
        (tmp_path / name / ".epoch").write_text(name)
    assert _differences(tree(tmp_path / "one"), tmp_path / "two") == []


@pytest.mark.parametrize(
    ("fault", "ended", "complaint"),
    [
        ("driver: SIGKILL", Ended(-9, "", 1.0), ""),
        ("driver: SIGTERM", Ended(130, "", 1.0), ""),
        ("driver: SIGTERM", Ended(1, "", 1.0), "exit code 1"),
        ("driver: SIGINT", Ended(130, "Traceback (most recent call last)", 1.0), "a traceback"),
        ("worker: SIGKILL", Ended(3, "", 1.0), "exit code 3"),
        ("driver: SIGKILL", Ended(-9, "", 1.0, outlived=["raylet (sleeping)"]), "processes outlived the job: raylet"),
    ],
)
def test_what_was_not_promised_is_named(fault, ended, complaint):
    assert _complaint(fault, ended).startswith(complaint)
    assert bool(_complaint(fault, ended)) == bool(complaint)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_short_soak(tmp_path, capsys):
    log = tmp_path / "log.jsonl"
    assert main(["soak", "--minutes", "0.05", "--seed", "3", "--only", "tile, in one", "--log", str(log)]) == 0
    assert "NOT EQUAL" not in capsys.readouterr().out
    assert '"lost": 0' in log.read_text().splitlines()[-1]


@pytest.mark.slow
def test_the_simulation_schedules_every_shard(capsys):
    assert main(["simulate", "--micrographs", "50", "--shards", "1", "4"]) == 0
    printed = capsys.readouterr().out
    assert "| 50 | 200 |" in printed
    assert "| read |" in printed
