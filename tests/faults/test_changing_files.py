"""Micrographs that are rewritten, grow, shrink or disappear while a job reads them: set aside, and nothing is mixed."""

import os
import shutil

import numpy as np
import pytest
import tifffile
from PIL import Image

from microseg_ray.errors import ChangedInputError
from microseg_ray.on_ray.actors import segment
from microseg_ray.quarantine import read_failures
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.worker import ArchiveWorker
from microseg_ray.settings import SegmentSettings
from microseg_ray.sources import fingerprint
from microseg_ray.sources.unchanged import Unchanged
from microseg_ray.tiles import shards as tile_shards
from microseg_ray.tiles import survey as tile_survey
from tests.faults.model_free import Quick
from tests.faults.test_foreign_files import CLASSES

pytestmark = pytest.mark.usefixtures("classes_travel")

LARGE = "large.tif"


def rewrite(path):
    pixels = tifffile.imread(path)
    tifffile.imwrite(path, 255 - pixels, tile=(64, 64), compression="deflate")


def rewrite_and_keep_the_time(path):
    """What `stat` cannot see, where the size stays: plain pixels."""
    before = path.stat()
    with path.open("r+b") as file:
        file.seek(-4096, os.SEEK_END)
        file.write(bytes(4096))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def grow(path):
    with path.open("ab") as file:
        file.write(bytes(1000))


def shrink(path):
    os.truncate(path, path.stat().st_size // 3)


def replace_by_renaming(path):
    other = path.with_suffix(".new")
    shutil.copyfile(path, other)
    rewrite(other)
    other.replace(path)


def remove(path):
    path.unlink()


def injecting(change, path, flag, when):
    """A worker that changes the file once, in the middle of the shards or before the finishing of the micrograph."""

    class Injects(Quick):
        def _pixels_of(self, task, box):
            if when == "shard" and task.name == LARGE and task.shard == (1, 1) and not flag.exists():
                flag.touch()
                change(path)
            return super()._pixels_of(task, box)

        def _finish(self, task):
            if when == "finish" and task.name == LARGE and not flag.exists():
                flag.touch()
                change(path)
            return super()._finish(task)

    return Injects


def settings(archive, checkpoint, output, **options) -> SegmentSettings:
    chosen = {"archive": str(archive), "checkpoint": str(checkpoint), "output": str(output), "shard": 256, "workers": 0}
    return SegmentSettings(**{**chosen, **options})


CHANGES = [rewrite, grow, shrink, replace_by_renaming, remove]


@pytest.mark.parametrize("when", ["shard", "finish"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_micrograph_that_changes_is_set_aside_and_the_next_run_is_right(
    checkpoint, new_archive, tree_of, tmp_path, change, when
):
    archive, flag = tmp_path / "archive", tmp_path / "flag"
    new_archive(archive)
    result = segment(
        settings(archive, checkpoint, tmp_path / "run"), worker_class=injecting(change, archive / LARGE, flag, when)
    )
    assert flag.exists()
    found = result.ledger.failures
    assert [failure.path for failure in found] == [LARGE]
    expected = "cannot be read (No such file" if change is remove else "has changed while it was read"
    assert expected in found[0].reason
    assert read_failures(tmp_path / "run/failures.csv") == found
    # Nothing else is lost, and nothing of it is measured.
    assert {row.micrograph for row in result.areas} == {"exact.tif", "2019/deep.tif", "2019/run #2 (a)/small.png"}
    store = result.run.store_path(LARGE)
    assert not MaskStore.open(store).finished if change is remove else not store.exists()
    if change is remove:
        rewrite_archive = tmp_path / "other"
        new_archive(rewrite_archive)
        shutil.copyfile(rewrite_archive / LARGE, archive / LARGE)
    again = segment(settings(archive, checkpoint, tmp_path / "run"), worker_class=Quick)
    if change is shrink:
        assert [failure.path for failure in again.ledger.failures] == [LARGE]
        return
    assert again.ledger.failures == []
    segment(settings(archive, checkpoint, tmp_path / "fresh"), worker_class=Quick)
    assert tree_of(tmp_path / "run/masks") == tree_of(tmp_path / "fresh/masks")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.parametrize("when", ["shard", "finish"])
def test_the_same_on_ray(checkpoint, new_archive, tree_of, tmp_path, ray_session, when):
    archive, flag = tmp_path / "archive", tmp_path / "flag"
    new_archive(archive)
    result = segment(
        settings(archive, checkpoint, tmp_path / "run", workers=2),
        worker_class=injecting(rewrite, archive / LARGE, flag, when),
    )
    assert [(failure.path, "has changed" in failure.reason) for failure in result.ledger.failures] == [(LARGE, True)]
    assert len(result.areas) == 3 * 3
    again = segment(settings(archive, checkpoint, tmp_path / "run", workers=2), worker_class=Quick)
    assert again.ledger.failures == []
    segment(settings(archive, checkpoint, tmp_path / "fresh"), worker_class=Quick)
    assert tree_of(tmp_path / "run/masks") == tree_of(tmp_path / "fresh/masks")


@pytest.mark.parametrize("when", ["shard", "finish"])
def test_a_change_that_keeps_size_and_time_is_found_by_content(checkpoint, new_archive, tmp_path, when):
    archive, flag = tmp_path / "archive", tmp_path / "flag"
    new_archive(archive)
    pixels = tifffile.imread(archive / LARGE)
    tifffile.imwrite(archive / LARGE, pixels)
    worker = injecting(rewrite_and_keep_the_time, archive / LARGE, flag, when)
    result = segment(settings(archive, checkpoint, tmp_path / "run", fingerprint="content"), worker_class=worker)
    assert [(failure.path, failure.stage) for failure in result.ledger.failures] == [(LARGE, "finish")]
    assert "has changed while it was read" in result.ledger.failures[0].reason
    assert not result.run.store_path(LARGE).exists()


def test_a_file_that_is_only_touched_passes_by_content(checkpoint, new_archive, tmp_path):
    archive, flag = tmp_path / "archive", tmp_path / "flag"
    new_archive(archive)
    worker = injecting(os.utime, archive / LARGE, flag, "shard")
    result = segment(settings(archive, checkpoint, tmp_path / "run", fingerprint="content"), worker_class=worker)
    assert flag.exists()
    assert result.ledger.failures == []


def test_a_strip_that_changes_below_what_is_committed(checkpoint, tmp_path):
    """A band commits row after row: what follows the change is not committed."""
    archive = tmp_path / "archive"
    archive.mkdir()
    pixels = np.random.default_rng(5).integers(0, 256, (96, 64), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
    tifffile.imwrite(archive / LARGE, pixels, tile=(64, 64))
    committed = []

    class Injects(ArchiveWorker):
        def stream(self, task, **options):
            for shard, result in super().stream(task, **options):
                committed.append(shard)
                if len(committed) == 3:
                    rewrite(archive / LARGE)
                yield shard, result

    chosen = settings(archive, checkpoint, tmp_path / "run", path="strips")
    result = segment(chosen, worker_class=Injects)
    assert [(failure.path, "has changed" in failure.reason) for failure in result.ledger.failures] == [(LARGE, True)]
    # The fourth was perhaps computed from rows that were read before the change.
    assert len(committed) in {3, 4}


def changing(module, name, change, times=1):
    """`module.name` as it is, after `change` for the first calls."""
    real = getattr(module, name)
    left = [times]

    def call(*given, **options):
        if left[0]:
            left[0] -= 1
            change()
        return real(*given, **options)

    return call


def tile_words(folder, output):
    given = "--images", folder / "images", "--masks", folder / "masks", *CLASSES, "--tile", 32, "--overlap", 0
    return "tile", *given, "--output", output, "--workers", 0, "--audit", "off"


@pytest.mark.parametrize("part", ["images", "masks"])
@pytest.mark.parametrize("where", ["survey", "write"])
@pytest.mark.parametrize("kind", ["stat", "content"])
def test_tile_sets_aside_a_pair_that_changes(new_pairs, microseg, monkeypatch, tree_of, tmp_path, part, where, kind):
    new_pairs(tmp_path)
    victim = tmp_path / part / "1_a.png"

    def change():
        pixels = np.asarray(Image.open(victim)).copy()
        pixels[0, 0] = 1
        Image.fromarray(pixels[:-8]).save(victim)

    if where == "survey":
        seen = []
        real = tile_survey.intensity_limits

        def once(micrograph, scaling):
            if micrograph.info.path.endswith("1_a.png") and not seen:
                seen.append(micrograph)
                change()
            return real(micrograph, scaling)

        monkeypatch.setattr(tile_survey, "intensity_limits", once)
    else:
        monkeypatch.setattr(tile_shards, "_read_pair", changing(tile_shards, "_read_pair", change))
    ran = microseg(*tile_words(tmp_path, tmp_path / "tiles"), "--fingerprint", kind)
    assert ran.code == 3, ran
    failures = read_failures(tmp_path / "tiles/failures.csv")
    assert [failure.path for failure in failures] == ["1_a.png"]
    assert "has changed while it was read" in failures[0].reason
    for folder in ("images", "masks"):
        (tmp_path / folder / "1_a.png").unlink()
    assert microseg(*tile_words(tmp_path, tmp_path / "without"), "--fingerprint", kind).code == 0
    found, expected = (tree_of(tmp_path / name / "tiles.zarr") for name in ("tiles", "without"))
    assert {name: mark for name, mark in found.items() if "/c/" in name} == {
        name: mark for name, mark in expected.items() if "/c/" in name
    }


def test_measure_leaves_out_intensities_of_a_file_that_changes(
    checkpoint, new_archive, microseg, monkeypatch, tmp_path
):
    from microseg_ray.runs import objects

    archive = tmp_path / "archive"
    new_archive(archive)
    segment(settings(archive, checkpoint, tmp_path / "run"), worker_class=Quick)
    path = archive / "exact.tif"
    opened = objects.open_of_run

    def and_rewritten(run, name, store):
        micrograph = opened(run, name, store)
        if name == "exact.tif":
            replace_by_renaming(path)
        return micrograph

    monkeypatch.setattr(objects, "open_of_run", and_rewritten)
    ran = microseg("measure", "--run", tmp_path / "run", "--exports.write", "false")
    assert ran.code == 0, ran
    assert "has changed since it was segmented" in ran.out + ran.err


def test_evaluate_sets_aside_a_micrograph_that_changes(checkpoint, new_pairs, microseg, monkeypatch, tmp_path):
    from microseg_ray.evaluation import predicting

    new_pairs(tmp_path)
    real = predicting.CheckpointPredictions._shard

    def and_rewritten(self, task, part, *, wanted):
        if task.name.endswith("1_a.png"):
            Image.fromarray(255 - np.asarray(Image.open(task.path))).save(task.path)
        return real(self, task, part, wanted=wanted)

    monkeypatch.setattr(predicting.CheckpointPredictions, "_shard", and_rewritten)
    given = "--images", tmp_path / "images", "--masks", tmp_path / "masks", "--checkpoint", checkpoint
    ran = microseg("evaluate", *given, "--output", tmp_path / "out", "--path", "tiles", "--resamples", 0)
    assert ran.code == 3, ran
    failures = read_failures(tmp_path / "out/failures.csv")
    assert [(failure.path, "has changed" in failure.reason) for failure in failures] == [("1_a.png", True)]


def test_checks_of_a_folder_of_many_files_stay_rare(tmp_path, monkeypatch):
    """A slow fingerprint is not taken for every shard, but for the last one it is."""
    from microseg_ray.sources import unchanged

    taken = []

    def slow(path, kind):
        taken.append(kind)
        clock[0] += 5.0
        return fingerprint(path, kind)

    clock = [0.0]
    monkeypatch.setattr(unchanged, "fingerprint", slow)
    monkeypatch.setattr(unchanged.time, "monotonic", lambda: clock[0])
    path = tmp_path / "a.bin"
    path.write_bytes(b"abc")
    mark = fingerprint(path, "stat")
    inputs = Unchanged()
    for _ in range(100):
        inputs.require(str(path), mark)
        clock[0] += 1.0
    assert len(taken) == 1
    path.write_bytes(b"abcd")
    with pytest.raises(ChangedInputError, match="has changed"):
        inputs.require(str(path), mark, final=True)
