"""A run without Ray: what is done, what is done again, what is refused; the same bytes however it came about."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import deque
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
import pytest
import tifffile
import zarr

from microseg_ray.errors import RunMismatchError, StoreError
from microseg_ray.files import BOOKS
from microseg_ray.geometry import Box
from microseg_ray.models.checkpoint import load_checkpoint
from microseg_ray.models.predictor import Predictor
from microseg_ray.on_ray.actors import segment
from microseg_ray.runs.drive import PlainLoop, survey, work
from microseg_ray.runs.folder import Run
from microseg_ray.runs.identity import RunIdentity
from microseg_ray.runs.setup import archive_inputs, prepare_job
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.tasks import ShardTask
from microseg_ray.runs.worker import ArchiveWorker
from microseg_ray.settings import SegmentSettings
from microseg_ray.sources import open_micrograph


def no_ray() -> None:
    raise AssertionError("Ray was started")


def settings(archive, checkpoint, output, **options) -> SegmentSettings:
    chosen = {"archive": str(archive), "checkpoint": str(checkpoint), "output": str(output), "shard": 256, "workers": 0}
    return SegmentSettings(**{**chosen, **options})


def shards_done(run: Run) -> int:
    return sum(int((MaskStore.open(run.store_path(name)).counts >= 0).all(axis=-1).sum()) for name in run.names())


@pytest.fixture(scope="module")
def reference(archive, checkpoint, tmp_path_factory):
    """The plain loop's result: what all others must equal."""
    return segment(settings(archive, checkpoint, tmp_path_factory.mktemp("reference") / "run"))


def test_every_micrograph_has_a_whole_mask_at_its_own_path(archive, reference):
    names = {"large.tif": 9, "2019/deep.tif": 4, "2019/run #2 (a)/small.png": 1, "exact.tif": 1}
    assert reference.run.names() == sorted(names)
    assert reference.ledger.computed == sum(names.values())
    assert not reference.ledger.failures
    for name, shards in names.items():
        store = MaskStore.open(reference.run.folder / "masks" / f"{name}.zarr")
        mask = np.asarray(store.mask[:])
        with open_micrograph(archive / name) as micrograph:
            assert mask.shape == micrograph.info.shape
        assert store.finished
        assert not store.missing()
        assert store.spec.shards[0] * store.spec.shards[1] == shards
        assert store.counts.sum(axis=(0, 1)).tolist() == np.bincount(mask.ravel(), minlength=3).tolist()
        assert len(np.unique(mask)) > 1, "a mask of one class would prove little"
        assert store.note["verdict"] == "exact"
        assert store.note.get("seam_argmax_flips", 0) == 0


def test_areas_are_those_of_the_masks(reference):
    table = pq.read_table(reference.run.folder / "areas.parquet").to_pylist()
    assert len(table) == 4 * 3
    for row in table:
        mask = np.asarray(MaskStore.open(reference.run.store_path(row["micrograph"])).mask[:])
        assert row["pixel_count"] == np.count_nonzero(mask == ["matrix", "grain", "pore"].index(row["class_name"]))
        assert row["measured_pixel_count"] == mask.size
        assert row["area_fraction"] == row["pixel_count"] / mask.size
        assert row["area_um2"] is None, "no file says its pixel size, and none is guessed"


def test_shards_equal_the_whole_image(archive, checkpoint, reference):
    """Law 1: cutting into tiles and shards does not show in the mask (same precision, one pass over the whole)."""
    model, card = load_checkpoint(checkpoint)
    predictor = Predictor(model, card, "bf16", threads=1, runtime="torch")
    with open_micrograph(archive / "large.tif") as micrograph:
        pixels = micrograph.read(Box(0, 0, 640, 700))
    whole = predictor.masks(pixels[None], (0, 255))[0]
    mask = np.asarray(MaskStore.open(reference.run.store_path("large.tif")).mask[:])
    assert np.count_nonzero(mask != whole) == 0


def test_a_second_run_computes_nothing_and_changes_nothing(archive, checkpoint, reference, tree_of):
    before, areas = tree_of(reference.run.folder), list(reference.areas)
    again = segment(settings(archive, checkpoint, reference.run.folder, workers=2), start_ray=no_ray)
    assert again.ledger.computed == 0
    assert again.ledger.kept == reference.run.names()
    assert list(again.areas) == areas
    after = tree_of(reference.run.folder)
    changed = {name for name in before | after if before.get(name) != after.get(name)}
    assert changed <= {"run.json"}, "how many workers there were may be noted, nothing else"


@dataclass(frozen=True)
class Shuffled:
    """The plain loop in another order."""

    worker: ArchiveWorker
    seed: int

    def run(self, pending):
        generator, waiting = random.Random(self.seed), []
        while pending or waiting:
            while pending:
                waiting.append(pending.popleft())
            yield self.worker.do(waiting.pop(generator.randrange(len(waiting))))


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_does_not_show(archive, checkpoint, reference, tree_of, tmp_path, seed):
    job = prepare_job(settings(archive, checkpoint, tmp_path / "run"))
    run = Run.create(tmp_path / "run", job.identity, job.record)
    inputs = random.Random(seed).sample(job.inputs, len(job.inputs))
    shuffled = Shuffled(ArchiveWorker(job.config), seed)
    ledger, progress = survey(run, inputs, job.config, lambda: shuffled, lambda _: None)
    work(run, ledger, progress, lambda: shuffled, lambda _: None)
    shuffled.worker.close()
    assert tree_of(run.folder / "masks") == tree_of(reference.run.folder / "masks")


@pytest.mark.parametrize("where", ["folder", "glob", "file"])
def test_folder_glob_and_file(archive, checkpoint, reference, tree_of, tmp_path, where):
    chosen = {"folder": archive / "2019", "glob": f"{archive}/2019/*.tif", "file": archive / "2019" / "deep.tif"}[where]
    result = segment(settings(chosen, checkpoint, tmp_path / "run"))
    assert result.run.names() == (["deep.tif", "run #2 (a)/small.png"] if where == "folder" else ["deep.tif"])
    assert tree_of(tmp_path / "run/masks/deep.tif.zarr/0") == tree_of(reference.run.store_path("2019/deep.tif") / "0")


def copied(reference, tmp_path) -> Run:
    shutil.copytree(reference.run.folder, tmp_path / "run")
    return Run.open(tmp_path / "run")


def test_a_lost_count_recomputes_its_shard_alone(archive, checkpoint, reference, tree_of, tmp_path):
    run = copied(reference, tmp_path)
    MaskStore.open(run.store_path("large.tif")).forget((1, 2))
    tasks = []

    class Watched(ArchiveWorker):
        def do(self, task):
            tasks.append(task)
            return super().do(task)

    again = segment(settings(archive, checkpoint, run.folder), worker_class=Watched)
    assert [task.shard for task in tasks if isinstance(task, ShardTask)] == [(1, 2)]
    assert again.ledger.computed == 1
    assert tree_of(run.folder / "masks") == tree_of(reference.run.folder / "masks")


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_count_is_computed_again(archive, checkpoint, reference, tree_of, tmp_path, damage):
    run = copied(reference, tmp_path)
    chunk = run.store_path("large.tif") / "counts" / "c" / "0" / "1" / "0"
    content = bytearray(chunk.read_bytes())
    content[3] ^= 0x10
    chunk.write_bytes({"flip": bytes(content), "truncate": bytes(content[:5]), "empty": b""}[damage])
    assert segment(settings(archive, checkpoint, run.folder)).ledger.computed == 1
    assert tree_of(run.folder / "masks") == tree_of(reference.run.folder / "masks")


def test_a_run_cut_at_any_task_goes_on_to_the_same_bytes(archive, checkpoint, reference, tree_of, tmp_path):
    class CutError(Exception):
        pass

    cuts = deque([1, 3, 6, 9, 12])

    def stopping(_progress):
        stopping.seen += 1
        if cuts and stopping.seen > cuts[0]:
            raise CutError

    computed = 0
    while True:
        stopping.seen = 0
        try:
            result = segment(settings(archive, checkpoint, tmp_path / "run"), stopping)
        except CutError:
            cuts.popleft()
            continue
        computed = result.ledger.computed
        break
    assert not cuts
    assert computed < 15, "nothing was kept"
    assert tree_of(tmp_path / "run/masks") == tree_of(reference.run.folder / "masks")
    assert list(result.areas) == list(reference.areas)


@pytest.mark.parametrize("kind", ["stat", "content"])
def test_a_changed_input_is_computed_again(checkpoint, new_archive, tmp_path, kind):
    new_archive(tmp_path / "a")
    options = {"fingerprint": kind}
    first = segment(settings(tmp_path / "a", checkpoint, tmp_path / "run", **options))
    path = tmp_path / "a/exact.tif"
    before = np.asarray(MaskStore.open(first.run.store_path("exact.tif")).mask[:])
    stat = path.stat()
    tifffile.imwrite(path, tifffile.imread(path)[::-1].copy(), tile=(64, 64), compression="deflate")
    if kind == "content":
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    again = segment(settings(tmp_path / "a", checkpoint, tmp_path / "run", **options))
    assert again.ledger.computed == 1
    assert len(again.ledger.kept) == 3
    after = np.asarray(MaskStore.open(again.run.store_path("exact.tif")).mask[:])
    assert (after != before).any()
    assert sum(row.pixel_count for row in again.areas if row.micrograph == "exact.tif") == 256 * 256


def test_an_input_that_broke_has_no_area_any_more(checkpoint, new_archive, tmp_path):
    new_archive(tmp_path / "a")
    segment(settings(tmp_path / "a", checkpoint, tmp_path / "run"))
    (tmp_path / "a/exact.tif").write_bytes(b"")
    again = segment(settings(tmp_path / "a", checkpoint, tmp_path / "run"))
    assert [failure.path for failure in again.ledger.failures] == ["exact.tif"]
    assert "exact.tif" not in {row.micrograph for row in again.areas}


def test_an_input_that_left_leaves_the_tables_and_one_that_came_is_done(checkpoint, new_archive, tmp_path):
    new_archive(tmp_path / "a")
    segment(settings(tmp_path / "a", checkpoint, tmp_path / "run"))
    (tmp_path / "a/exact.tif").rename(tmp_path / "a/renamed.tif")
    again = segment(settings(tmp_path / "a", checkpoint, tmp_path / "run"))
    assert again.ledger.computed == 1
    names = {row.micrograph for row in again.areas}
    assert "renamed.tif" in names
    assert "exact.tif" not in names


@pytest.mark.parametrize(
    ("options", "key"),
    [
        ({"halo": 8}, "halo: 24 there, 8 now"),
        ({"shard": 512}, "shard: 256 there, 512 now"),
        ({"precision": "fp32"}, "precision: bf16 there, fp32 now"),
        ({"tta": True}, "tta: False there, True now"),
    ],
)
def test_other_settings_are_refused_by_name(archive, checkpoint, reference, tree_of, tmp_path, options, key):
    run = copied(reference, tmp_path)
    before = tree_of(run.folder)
    with pytest.raises(RunMismatchError, match="--overwrite") as error:
        segment(settings(archive, checkpoint, run.folder, **options))
    assert key in str(error.value)
    assert tree_of(run.folder) == before


def test_another_model_is_refused_and_overwrite_starts_afresh(
    archive, new_checkpoint, checkpoint, reference, tree_of, tmp_path
):
    run = copied(reference, tmp_path)
    other = new_checkpoint(tmp_path / "other", seed=1)
    with pytest.raises(RunMismatchError, match="model: "):
        segment(settings(archive, other, run.folder))
    assert segment(settings(archive, other, run.folder, overwrite=True)).ledger.computed == 15
    assert tree_of(run.folder / "masks") != tree_of(reference.run.folder / "masks")
    assert segment(settings(archive, checkpoint, run.folder, overwrite=True)).ledger.computed == 15
    assert tree_of(run.folder / "masks") == tree_of(reference.run.folder / "masks")


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_job_is_kept_out_and_does_no_harm(archive, checkpoint, reference, tree_of, tmp_path, overwrite):
    run = copied(reference, tmp_path)
    before = tree_of(run.folder)
    with run.locked(), pytest.raises(RunMismatchError, match="another job is writing"):
        segment(settings(archive, checkpoint, run.folder, overwrite=overwrite))
    assert {name: digest for name, digest in tree_of(run.folder).items() if name not in BOOKS} == {
        name: digest for name, digest in before.items() if name not in BOOKS
    }


def test_every_third_task_failing_is_made_up_for(archive, checkpoint, reference, tree_of, tmp_path):
    class Clumsy(ArchiveWorker):
        def _shard(self, task):
            Clumsy.tasks += 1
            if Clumsy.tasks % 3 == 0:
                raise ValueError(f"slipped at {Clumsy.tasks}")
            return super()._shard(task)

    Clumsy.tasks = 0
    first = segment(settings(archive, checkpoint, tmp_path / "run"), worker_class=Clumsy)
    assert len(first.ledger.failures) == 5
    assert first.ledger.computed == 10
    assert all("ValueError: slipped at" in failure.reason for failure in first.ledger.failures)
    assert all("Traceback" in detail for detail in first.ledger.details)
    broken = {failure.path for failure in first.ledger.failures}
    assert {row.micrograph for row in first.areas} == set(reference.run.names()) - broken
    again = segment(settings(archive, checkpoint, tmp_path / "run"))
    assert again.ledger.computed == 5
    assert not again.ledger.failures
    assert (tmp_path / "run/failures.csv").read_text().splitlines() == ["path,stage,reason"]
    assert tree_of(tmp_path / "run/masks") == tree_of(reference.run.folder / "masks")
    assert list(again.areas) == list(reference.areas)


def test_a_full_disk_stops_the_run_and_it_goes_on_later(archive, checkpoint, reference, tree_of, tmp_path):
    class Full(ArchiveWorker):
        def _shard(self, task):
            if task.shard == (2, 2):
                raise OSError(28, "No space left on device", task.store)
            return super()._shard(task)

    with pytest.raises(StoreError, match=r"No space left on device.*resumed with the same command"):
        segment(settings(archive, checkpoint, tmp_path / "run"), worker_class=Full)
    assert shards_done(Run.open(tmp_path / "run")) > 0
    segment(settings(archive, checkpoint, tmp_path / "run"))
    assert tree_of(tmp_path / "run/masks") == tree_of(reference.run.folder / "masks")


def test_a_damaged_mask_store_is_made_again(archive, checkpoint, reference, tree_of, tmp_path):
    run = copied(reference, tmp_path)
    (run.store_path("exact.tif") / "zarr.json").write_text("{")
    again = segment(settings(archive, checkpoint, run.folder))
    assert again.ledger.computed == 1
    assert tree_of(run.folder / "masks") == tree_of(reference.run.folder / "masks")


def test_extra_outputs_lie_beside_an_unchanged_mask(archive, checkpoint, reference, tmp_path):
    result = segment(settings(archive / "exact.tif", checkpoint, tmp_path / "run", extra="margin"))
    group = zarr.open_group(result.run.store_path("exact.tif"), mode="r")
    mask = np.asarray(MaskStore.open(reference.run.store_path("exact.tif")).mask[:])
    assert np.array_equal(np.asarray(group["0"][:]), mask)
    assert group["margin"].shape == mask.shape
    assert int(np.asarray(group["margin"][:]).max()) <= 254


@pytest.mark.parametrize("options", [{"blend": "hann"}, {"blend": "mean", "overlap": 0.75}, {"tta": True}])
def test_blends_do_not_depend_on_the_shards(archive, checkpoint, tmp_path, options):
    """One global grid: shards of 256 and of 512 px give one mask."""
    masks = []
    for shard in (256, 512):
        chosen = settings(
            archive / "2019" / "deep.tif", checkpoint, tmp_path / str(shard), shard=shard, tile=128, **options
        )
        result = segment(chosen)
        assert result.plan.verdict == ("exact" if "tta" in options else "bounded")
        masks.append(np.asarray(MaskStore.open(result.run.store_path("deep.tif")).mask[:]))
    assert np.array_equal(*masks)


def test_a_missing_run_document_is_noticed(archive, checkpoint, reference, tmp_path):
    run = copied(reference, tmp_path)
    (run.folder / "run.json").unlink()
    with pytest.raises(RunMismatchError, match=r"no run\.json"):
        segment(settings(archive, checkpoint, run.folder))


def test_run_document_says_what_it_is(reference, checkpoint):
    document = json.loads((reference.run.folder / "run.json").read_text())
    assert document["verdict"] == "exact"
    assert document["settings"]["shard"] == 256
    assert document["identity"]["pixels"]["halo"] == reference.plan.engine.halo
    assert document["versions"]["torch"]
    assert Run.open(reference.run.folder).identity == RunIdentity(
        document["identity"]["model_digest"], document["identity"]["pixels"]
    )


def test_inputs_are_named_below_the_root(archive):
    assert [item.name for item in archive_inputs(f"{archive}/**/*.tif")[0]] == [
        "2019/deep.tif",
        "exact.tif",
        "large.tif",
    ]


def test_plain_loop_is_an_executor(archive, checkpoint, tmp_path):
    job = prepare_job(settings(archive, checkpoint, tmp_path / "run"))
    assert list(PlainLoop(ArchiveWorker(job.config)).run(deque())) == []
