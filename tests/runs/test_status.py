"""`status`: where a run stands, by its files alone, and without a trace in them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from microseg_ray.files import sole_writer
from microseg_ray.quarantine import Failure
from microseg_ray.runs.folder import Run
from microseg_ray.runs.identity import RunIdentity
from microseg_ray.runs.status import run_status
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.settings import ClassSpec

CLASSES = (ClassSpec(name="matrix"), ClassSpec(name="pore"))


@pytest.fixture
def run(tmp_path):
    """Two micrographs of four shards: one finished, one with two shards; a third of the archive is not begun."""
    (tmp_path / "archive/sub").mkdir(parents=True)
    for name in ("a.tif", "b.tif", "sub/c\udcff.tif"):
        (tmp_path / "archive" / name).write_bytes(b"II*\0")
    record = {
        "archive": str(tmp_path / "archive"), "source": str(tmp_path / "archive"), "checkpoint": "none",
        "classes": [each.model_dump() for each in CLASSES], "settings": {},
    }  # fmt: skip
    made = Run.create(tmp_path / "run", RunIdentity("f00d", {}), record)
    for name, shards in (("a.tif", 4), ("b.tif", 2)):
        store = MaskStore.create(made.store_path(name), MaskSpec((64, 60), CLASSES, shard=32), {})
        for shard in list(np.ndindex(*store.spec.shards))[:shards]:
            store.commit(shard, np.zeros(store.spec.box(shard).shape, np.uint8))
        if shards == 4:
            store.finish(None, {})
    return made


def aged(run, seconds, session=()):
    """Commits and the start of the session at stated seconds before now."""
    now = time.time()
    os.utime(run.folder / "run.json", (now - seconds, now - seconds))
    chunks = sorted(path for path in run.folder.glob("masks/**/counts/c/**/*") if path.is_file())
    for path, age in zip(chunks, session, strict=True):
        os.utime(path, (now - age, now - age))
    return now


def snapshot(folder):
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in (folder, *folder.rglob("*"))
    }  # fmt: skip


def test_what_is_done_is_counted_and_nothing_is_written(run):
    before = snapshot(run.folder)
    found = run_status(run.folder)
    assert (found.micrographs, found.finished, found.not_begun) == (3, 1, 1)
    assert (found.shards, found.shards_done) == (8, 6)
    assert (found.writer, found.writer_pid, found.complete) == ("none", None, False)
    assert snapshot(run.folder) == before


def test_the_rate_is_that_of_the_last_session_alone(run):
    # Four shards a day ago, two in this session, 40 and 30 s ago.
    now = aged(run, 60, (90_000, 89_990, 89_980, 89_970, 40, 30))
    found = run_status(run.folder, now)
    assert found.session_shards == 2
    assert found.shards_per_second == pytest.approx(0.1)
    assert found.last_commit == pytest.approx(30)
    # Nobody writes: there is no time left to tell.
    assert found.seconds_left is None
    with sole_writer(run.folder):
        os.utime(run.folder / "run.json", (now - 60, now - 60))
        found = run_status(run.folder, now)
        assert (found.writer, found.writer_pid) == ("writing", os.getpid())
        # One shard in the 40 s since the first one: what stands still becomes slower.
        assert found.shards_per_second == pytest.approx(1 / 40)
        assert found.seconds_left == pytest.approx(2 * 40)


def test_one_shard_gives_no_rate(run):
    now = aged(run, 35, (90_000, 89_990, 89_980, 89_970, 40, 30))
    found = run_status(run.folder, now)
    assert (found.session_shards, found.shards_per_second, found.seconds_left) == (1, None, None)


def test_a_writer_of_another_process_is_seen_and_one_that_was_killed_is_not(run):
    code = (
        "import sys, time\nfrom microseg_ray.files import sole_writer\n"
        "with sole_writer(sys.argv[1]):\n    print('locked', flush=True)\n    time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, run.folder], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "locked\n"
        found = run_status(run.folder)
        assert (found.writer, found.writer_pid) == ("writing", process.pid)
    finally:
        process.kill()
        process.communicate()
    assert run_status(run.folder).writer == "none"


def test_the_command_line(run, microseg):
    ran = microseg("status", run.folder)
    assert ran.code == 0
    for said in (
        "micrographs: 1 of 3 finished, 1 not begun",
        "shards: 6 of 8 done (75.0 %)",
        "writer: none on this machine",
        "last commit: ",
    ):
        assert said in ran.out
    run.write_tables(run.names(), [Failure("sub/c\udcff.tif", "prepare", "the file is [empty]")])
    ran = microseg("status", "--run", run.folder)
    assert ran.code == 3
    assert "1 of 3 finished, 1 quarantined" in ran.out
    assert "sub/c\\xff.tif (prepare): the file is [empty]" in ran.out
    document = json.loads(microseg("status", run.folder, "--json").out)
    assert document["failures"] == [{"path": "sub/c\\xff.tif", "stage": "prepare", "reason": "the file is [empty]"}]
    assert (document["finished"], document["shards_done"], document["complete"]) == (1, 6, False)
    ran = microseg("status", run.folder.parent)
    assert ran.code == 1
    assert "no run is here" in ran.err


def test_a_damaged_mask_and_a_lost_archive_are_no_end_of_it(run):
    (run.store_path("b.tif") / "zarr.json").write_text("{")
    (run.folder.parent / "archive").rename(run.folder.parent / "elsewhere")
    found = run_status(run.folder)
    assert (found.micrographs, found.finished, found.shards_done) == (2, 1, 4)
