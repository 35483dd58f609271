"""Two tile jobs on one output, and a worker that outlives its job."""

import pickle
import subprocess
import sys

import pytest

from microseg_ray.errors import FencedError, RunMismatchError
from microseg_ray.tiles.make import tile
from microseg_ray.tiles.shards import stop_if_over, write_shard
from tests.tiles.jobs import settings

FIRST = """
import pickle, sys, time
from pathlib import Path
from microseg_ray.settings import TileSettings
from microseg_ray.tiles.make import tile
from microseg_ray.tiles.mapping import in_process

def mapper(report, _workers):
    def run(step, tasks, stage):
        if stage == "write":
            # What a worker holds that lives longer than its job.
            Path(sys.argv[1], "tasks").write_bytes(pickle.dumps(tasks))
            print("writing", flush=True)
            time.sleep(600)
        return in_process(report)(step, tasks, stage)
    return run

tile(TileSettings(**eval(sys.argv[2])), mapper=mapper)
"""


def test_one_job_at_a_time_and_no_late_shard(pairs, tmp_path, tree_of):
    output = tmp_path / "store"
    given = settings(pairs, output, workers=1)
    chosen = repr(given.model_dump(mode="json", exclude_unset=True))
    first = subprocess.Popen([sys.executable, "-c", FIRST, str(tmp_path), chosen], stdout=subprocess.PIPE, text=True)
    try:
        assert first.stdout.readline() == "writing\n"
        with pytest.raises(RunMismatchError, match="another job is writing here"):
            tile(settings(pairs, output, overlap=0))
    finally:
        first.kill()
        first.communicate()
    # The lock went with its process; the late shards are those of other settings.
    tile(settings(pairs, output, overlap=0))
    after = tree_of(output)
    late = [write_shard(task) for task in pickle.loads((tmp_path / "tasks").read_bytes())]
    assert late
    assert all(found.fenced and "another job has begun to write here" in found.reason for found in late)
    assert tree_of(output) == after
    with pytest.raises(FencedError, match="another job has begun"):
        stop_if_over(late, output)
