"""Several nodes: the bytes of the plain loop, whether nodes stay, go or come in the middle of a job."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from shutil import rmtree

import numpy as np
import pytest
import tifffile

from microseg_ray.runs.segment import segment
from microseg_ray.settings import SegmentSettings, TileSettings
from microseg_ray.tiles.make import tile
from tests.faults.model_free import Quick

pytestmark = [pytest.mark.slow, pytest.mark.ray, pytest.mark.timeout(600)]
REPOSITORY = Path(__file__).resolve().parents[2]
CLASSES = [{"name": "matrix"}, {"name": "grain"}, {"name": "pore"}]


@pytest.fixture
def on_nodes(tmp_path):
    """`on_nodes(job, settings, ...)`: what was done on which node of a cluster of two.

    `removals`, `replace`, `grow`: what happens to nodes. `awaited`: the others wait for the added node. `named`: resources
    and labels of the nodes beside the head's.
    """
    # Sockets lie in it, so its path is short; Ray's files of this session stay as they are.
    temporary = Path(tempfile.mkdtemp(prefix="msrn", dir="/tmp"))

    def run(job, settings, *, removals=0, replace=False, grow=False, awaited=False, named=None):
        plan = {"job": job, "settings": settings, "removals": removals, "replace": replace, "grow": grow}
        plan |= {"awaited": awaited, "named": named or {}}
        (tmp_path / "plan.json").write_text(json.dumps(plan))
        command = [sys.executable, "-m", "tests.faults.nodes", str(tmp_path)]
        environment = {**os.environ, "RAY_TMPDIR": str(temporary), "RAY_ADDRESS": ""}
        # Workers inherit this process's standard output, so nothing is piped.
        with (tmp_path / "printed.txt").open("w") as printed:
            ended = subprocess.run(
                command, cwd=REPOSITORY, env=environment, stdout=printed, stderr=printed, timeout=500, check=False
            )
        assert ended.returncode == 0, (tmp_path / "printed.txt").read_text()
        return json.loads((tmp_path / "seen.json").read_text())

    yield run
    rmtree(temporary, ignore_errors=True)


@pytest.fixture
def segmented(tmp_path, checkpoint, tree_of):
    """Settings of a run of 64 shards on two workers, and the bytes of the plain loop."""
    (tmp_path / "archive").mkdir()
    pixels = np.random.default_rng(1).integers(0, 255, (512, 512), np.uint8)
    tifffile.imwrite(tmp_path / "archive/one.tif", pixels, tile=(128, 128))
    chosen = {"archive": str(tmp_path / "archive"), "checkpoint": str(checkpoint), "shard": 64}
    # The runtime is torch in this process, see conftest.py, so it is in the other.
    chosen |= {"runtime": "torch", "path": "tiles"}
    segment(SegmentSettings(**chosen, output=str(tmp_path / "plain"), workers=0), worker_class=Quick)
    return {**chosen, "output": str(tmp_path / "run"), "workers": 2}, tree_of(tmp_path / "plain/masks")


@pytest.fixture
def tiled(tmp_path, pairs, tree_of):
    """Settings of a tile job on two workers, and the bytes of the job in one process."""
    chosen = {"images": f"{pairs}/images", "masks": f"{pairs}/masks", "classes": CLASSES, "tile": 32, "overlap": 8}
    chosen |= {"group": r"^(\d+)_", "splits": {"val": ["1"], "test": 0.3}}
    made = tile(TileSettings(**chosen, output=str(tmp_path / "plain"), workers=0))
    return {**chosen, "output": str(tmp_path / "store"), "workers": 2}, tree_of(made.store.folder)


def check_segmented(seen, expected, tree_of, folder):
    assert seen["failures"] == []
    assert seen["work"] == 64
    assert tree_of(folder / "run/masks") == expected


def test_segment_on_two_nodes(on_nodes, segmented, tree_of, tmp_path):
    seen = on_nodes("segment", segmented[0])
    check_segmented(seen, segmented[1], tree_of, tmp_path)
    assert set(seen["done"]) == {seen["head"], *seen["added"]}
    assert sum(seen["done"].values()) == 64


def test_segment_while_a_node_is_removed(on_nodes, segmented, tree_of, tmp_path):
    """The worker of the node that is left does the rest."""
    seen = on_nodes("segment", segmented[0], removals=1)
    check_segmented(seen, segmented[1], tree_of, tmp_path)
    assert seen["removed"] == seen["added"]
    assert set(seen["done"]) == {seen["head"], *seen["removed"]}


def test_segment_while_nodes_are_removed_and_others_added(on_nodes, segmented, tree_of, tmp_path):
    """Each new node gets the worker that the removed one had, and does a part."""
    seen = on_nodes("segment", segmented[0], removals=4, replace=True)
    check_segmented(seen, segmented[1], tree_of, tmp_path)
    assert len(seen["removed"]) == 4
    assert len(seen["added"]) == 5
    assert set(seen["done"]) == {seen["head"], *seen["added"]}


def test_segment_while_a_node_is_added(on_nodes, segmented, tree_of, tmp_path):
    """The bytes stay the same; a pool of two workers has none for a third node."""
    seen = on_nodes("segment", segmented[0], grow=True)
    check_segmented(seen, segmented[1], tree_of, tmp_path)
    assert len(seen["added"]) == 2
    assert set(seen["done"]) == {seen["head"], seen["added"][0]}


def auto(settings, **ray):
    return {**settings, "workers": "auto", "ray": {"look": 0.2, **ray}}


def test_workers_auto_use_a_node_that_is_added(on_nodes, segmented, tree_of, tmp_path):
    seen = on_nodes("segment", auto(segmented[0]), grow=True, awaited=True)
    check_segmented(seen, segmented[1], tree_of, tmp_path)
    assert len(seen["added"]) == 2
    assert set(seen["done"]) == {seen["head"], *seen["added"]}


def test_workers_auto_follow_nodes_that_go_and_come(on_nodes, segmented, tree_of, tmp_path):
    seen = on_nodes("segment", auto(segmented[0]), removals=2, replace=True)
    check_segmented(seen, segmented[1], tree_of, tmp_path)
    assert len(seen["removed"]) == 2
    assert set(seen["done"]) == {seen["head"], *seen["added"]}


@pytest.mark.parametrize(
    ("named", "ray"),
    [
        ({"resources": {"models": 1}}, {"resources": {"models": 0.5}}),
        ({"labels": {"kind": "large"}}, {"labels": {"kind": "large"}}),
    ],
)
def test_workers_run_where_resources_and_labels_say(on_nodes, segmented, tree_of, tmp_path, named, ray):
    """The head's node has a CPU free and is not used."""
    seen = on_nodes("segment", auto(segmented[0], **ray), named=named)
    check_segmented(seen, segmented[1], tree_of, tmp_path)
    assert set(seen["done"]) == set(seen["added"])


@pytest.mark.parametrize("removals", [0, 1])
def test_tile_on_two_nodes(on_nodes, tiled, tree_of, tmp_path, removals):
    seen = on_nodes("tile", tiled[0], removals=removals)
    assert seen["failures"] == []
    assert set(seen["done"]) == {seen["head"], *seen["added"]}
    assert len(seen["removed"]) == removals
    assert tree_of(tmp_path / "store") == tiled[1]
