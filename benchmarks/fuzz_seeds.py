"""The parsers that `python -m benchmarks fuzz` damages the input of: small valid files of each, and how they are read."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray import names
from microseg_ray.accounts import Account, read_accounts, write_accounts
from microseg_ray.catalog.lists import read_list
from microseg_ray.catalog.rows import CatalogRow
from microseg_ray.catalog.table import read_table, write_catalog
from microseg_ray.evaluation.confusions import read_confusions
from microseg_ray.files import write_json
from microseg_ray.geometry import Box
from microseg_ray.outputs import Kind, claim, outputs_in
from microseg_ray.quarantine import Failure, read_failures, write_failures
from microseg_ray.recognition import is_ours, is_record, read_record
from microseg_ray.report.viewer.label_records import read_classes, read_strokes, write_classes
from microseg_ray.runs.damage import damaged
from microseg_ray.runs.folder import Run
from microseg_ray.runs.identity import RunIdentity
from microseg_ray.runs.status import run_status
from microseg_ray.runs.store.glance import glance
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.settings import SegmentSettings, TileSettings, TrainSettings
from microseg_ray.settings.loading import load_settings
from microseg_ray.sources.scale.table import read_pixel_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

from benchmarks.fuzz_drawn import DRAWN
from benchmarks.fuzz_images import IMAGES
from benchmarks.fuzz_parser import CLASSES, GRAY, Parser, texts

__all__ = ["PARSERS"]

_CONFIG = """classes:
  - {name: matrix, color: "#000000"}
  - name: pore
data: {images: "archive/*.tif", masks: masks, group: "^(a+)_", splits: {train: 0.8, val: 0.2}}
source: {page: 1, channel: 0, max_pixels: 1000000, info_bar: auto, pixel_size_um: [0.5, 0.5]}
ray: {num_cpus: 2}
tile: {tile: 64, overlap: 8, output: tiles}
train: {tiles: tiles, output: model, epochs: 3, optimizer: {learning_rate: 0.001}, model: {name: unet, width: 4},
        augment: {scale: [0.8, 1.2]}}
segment: {archive: archive, checkpoint: model, output: run}
"""


def _configured(path: Path) -> None:
    for cls in (TileSettings, TrainSettings, SegmentSettings):
        load_settings(cls, [], path)


def _catalog(folder: Path, suffix: str) -> Sequence[Path]:
    rows = [
        CatalogRow(f"{name}.tif", folder / f"{name}.tif", folder / f"{name}.png", name, "train", (0.5, 0.25))
        for name in "abc"
    ]
    write_catalog(folder / f"catalog{suffix}", rows)
    return [folder / f"catalog{suffix}"]


def _failures(folder: Path) -> Sequence[Path]:
    write_failures(folder / "failures.csv", [Failure("a, b.tif", "read", "cut\nshort"), Failure("=c.tif", "read", "x")])
    return [folder / "failures.csv"]


def _accounts(folder: Path) -> Sequence[Path]:
    write_accounts(folder / "accounting.csv", [Account("files", 5, 1, 1, {"hidden; 2": 2, "no image": 1})])
    return [folder / "accounting.csv"]


def _run(folder: Path) -> Run:
    record: dict[str, Any] = {"archive": "a", "source": "a", "checkpoint": "none", "settings": {}}
    record |= {"classes": [each.model_dump() for each in CLASSES]}
    run = Run.create(folder / "run", RunIdentity("f00d", {}), record)
    store = MaskStore.create(run.store_path("a.tif"), MaskSpec((64, 64), CLASSES, shard=32), {"fingerprint": "stat:1"})
    for shard in np.ndindex(2, 2):
        store.commit(shard, GRAY[:32, :32] % 2)
    store.finish((0.5, 0.5), {"pixel_size_um": (0.5, 0.5), "pixel_size_source": "option"})
    run.write_tables(["a.tif"], [])
    return run


def _run_files(folder: Path) -> Sequence[Path]:
    run = _run(folder)
    return [run.folder / name for name in ("run.json", "areas.parquet", "failures.csv", "accounting.csv")]


def _read_run(path: Path) -> None:
    is_record(path.parent / "run.json", "identity")
    run = Run.open(path.parent)
    _ = run.classes, list(damaged(run)), run.failures(), run.areas(), run.accounts(), run_status(path.parent)


def _store_files(folder: Path) -> Sequence[Path]:
    store = _run(folder).store_path("a.tif")
    return sorted(path for path in store.rglob("*") if path.is_file())


def _read_store(path: Path) -> None:
    run = Run.open(next(parent for parent in path.parents if parent.name == "run"))
    place = run.store_path("a.tif")
    _ = run_status(run.folder), list(damaged(run)), is_ours(place)
    glance(place)
    store = MaskStore.open(place)
    _ = store.missing(), store.counts, store.finished, store.identity, store.note, run.measured("a.tif")
    store.read(Box.of_shape((64, 64)))


def _manifest(folder: Path) -> Sequence[Path]:
    claim(folder, "simulate", dict.fromkeys(("images/a.tif", "masks/a.png"), Kind.FILE))
    return sorted(path for path in folder.iterdir() if path.is_file())


def _claim(path: Path) -> None:
    outputs_in(path.parent)
    claim(path.parent, "simulate", {"masks/b.png": Kind.FILE})


def _checkpoint(folder: Path) -> Sequence[Path]:
    from microseg_ray.models import build_model
    from microseg_ray.models.card import ModelCard, ReceptiveField
    from microseg_ray.models.checkpoint import save_checkpoint

    options = {"width": 2, "depth": 1}
    card = ModelCard(
        architecture="unet",
        options=options,
        in_channels=1,
        classes=CLASSES,
        receptive_field=ReceptiveField(radius=10, stride=2),
    )
    save_checkpoint(folder / "model", build_model("unet", 1, 2, options), card)
    return [folder / "model" / name for name in ("model.json", "model.safetensors")]


def _load(path: Path) -> None:
    from microseg_ray.models.checkpoint import load_checkpoint

    load_checkpoint(path.parent)


def _tiles(folder: Path) -> Sequence[Path]:
    from microseg_ray.settings.scaling import Scaling
    from microseg_ray.tiles.spec import TileSpec
    from microseg_ray.tiles.store import TileStore, write_table

    spec = TileSpec(2, 8, 2, 1, "uint8", CLASSES, Scaling(), pixel_size_um=(0.5, 0.5))
    TileStore.create(folder / "tiles", spec, {"archive": "a"})
    images, masks = np.ones((2, 1, 8, 8), np.uint8), np.ones((2, 8, 8), np.uint8)
    TileStore.open(folder / "tiles", unfinished=True).write_shard(0, images, masks)
    row: dict[str, Any] = {"micrograph": "a.tif", "group": "a", "split": "train", "x0": 0, "low": 0.0, "high": 1.0}
    row |= {"count_0": 0, "count_1": 64, "count_ignored": 0}
    write_table(folder / "tiles", [{**row, "index": index, "y0": 8 * index} for index in range(2)])
    found = (folder / "tiles").rglob("*")
    return sorted(path for path in found if path.is_file() and path.suffix in {".json", ".parquet", ""})


def _read_tiles(path: Path) -> None:
    from microseg_ray.tiles.store import TileStore

    folder = next(parent for parent in path.parents if parent.name == "tiles")
    store = TileStore.open(folder)
    _ = store.made_from, store.splits
    store.read(store.rows("train"))


_SIZES = "pattern,um_per_pixel,um_per_pixel_y\na*.tif,0.5,\n*,1,2\n"


_CONFUSIONS = (
    "micrograph,group,true_index,predicted_index,true,predicted,pixels\na.tif,a,0,0,matrix,matrix,5\n"
    "a.tif,a,0,1,matrix,pore,5\na.tif,a,1,0,pore,matrix,5\na.tif,a,1,1,pore,pore,7\n"
)


def _named(path: Path) -> None:
    for name in os.fsdecode(path.read_bytes()).split("\n"):
        _ = names.key(name), names.text(name), names.fits(name), names.in_table({"name": name})


def _outputs(folder: Path) -> Sequence[Path]:
    for name in ("export.json", "search.json"):
        write_json(folder / name, {"run": "/runs/a", "identity": {"model_digest": "f00d", "pixels": {}}})
    return [folder / "export.json", folder / "search.json"]


def _read_output(path: Path) -> None:
    read_record(path, "run", "identity")


def _labels(folder: Path) -> Sequence[Path]:
    write_classes(folder / "classes.json", CLASSES)
    stroke = {"who": "a", "when": "2026-11-28T00:00:00+00:00", "class": "pore", "box": [0, 0, 8, 8], "pixels": 12}
    (folder / "a.jsonl").write_text(f"{json.dumps(stroke)}\n" * 2, encoding="utf-8")
    return [folder / "classes.json", folder / "a.jsonl"]


def _read_labels(path: Path) -> None:
    _ = read_classes(path.parent / "classes.json"), read_strokes(path.parent / "a.jsonl")


PARSERS: dict[str, Parser] = {
    **DRAWN,
    "config": Parser(texts(("config.yaml", _CONFIG)), _configured),
    "names": Parser(texts(("names", "a.tif\nsécante/b.TIF\n=1+1.tif\n<b>.png\n")), _named),
    "catalog.csv": Parser(partial(_catalog, suffix=".csv"), read_table),
    "catalog.parquet": Parser(partial(_catalog, suffix=".parquet"), read_table),
    "list of names": Parser(texts(("train.txt", "11_1_a 1\n11_1_b\n")), read_list),
    "table of pixel sizes": Parser(texts(("sizes.csv", _SIZES)), read_pixel_sizes),
    "failures.csv": Parser(_failures, read_failures),
    "accounting.csv": Parser(_accounts, read_accounts),
    "confusions.csv": Parser(texts(("confusions.csv", _CONFUSIONS)), partial(read_confusions, specs=CLASSES)),
    "list of outputs": Parser(_manifest, _claim),
    "run: run.json and tables": Parser(_run_files, _read_run),
    "run: mask store": Parser(_store_files, _read_store),
    "checkpoint": Parser(_checkpoint, _load),
    "tile store": Parser(_tiles, _read_tiles),
    "records of outputs": Parser(_outputs, _read_output),
    "labels of the page": Parser(_labels, _read_labels),
    **IMAGES,
}  # fmt: skip
