"""The parsers that `python -m benchmarks fuzz` damages the input of: small valid files of each, and how they are read."""

from __future__ import annotations

import json
import os
import struct
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray import names
from microseg_ray.accounts import Account, read_accounts, write_accounts
from microseg_ray.annotations.detect import READERS, detect_format
from microseg_ray.annotations.painting import rasterise
from microseg_ray.annotations.readers.cvat import read_label_map
from microseg_ray.annotations.regions import ReadOptions
from microseg_ray.catalog.lists import read_list
from microseg_ray.catalog.rows import CatalogRow
from microseg_ray.catalog.table import read_table, write_catalog
from microseg_ray.evaluation.confusions import read_confusions
from microseg_ray.geometry import Box
from microseg_ray.outputs import Kind, claim, outputs_in
from microseg_ray.quarantine import Failure, read_failures, write_failures
from microseg_ray.recognition import is_ours, is_record
from microseg_ray.runs.damage import damaged
from microseg_ray.runs.folder import Run
from microseg_ray.runs.identity import RunIdentity
from microseg_ray.runs.status import run_status
from microseg_ray.runs.store.glance import glance
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.settings import ClassSpec, SegmentSettings, TileSettings, TrainSettings
from microseg_ray.settings.loading import load_settings
from microseg_ray.sources import open_micrograph
from microseg_ray.sources.masks import read_mask
from microseg_ray.sources.scale.sidecars import read_sidecar
from microseg_ray.sources.scale.table import read_pixel_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = ["PARSERS", "Parser"]

SHAPE = (40, 50)
GRAY = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
CLASSES = (ClassSpec(name="matrix"), ClassSpec(name="pore"))
SQUARE = [[10, 10], [20, 10], [20, 30], [10, 30]]


@dataclass(frozen=True)
class Parser:
    """One parser.

    Attributes:
        make: Writes valid files into a folder and gives the paths that are damaged, one at a time.
        read: Reads what the path belongs to.
    """

    make: Callable[[Path], Sequence[Path]]
    read: Callable[[Path], object]


def _texts(*files: tuple[str, str]) -> Callable[[Path], Sequence[Path]]:
    def make(folder: Path) -> Sequence[Path]:
        for name, text in files:
            (folder / name).write_text(text, encoding="utf-8")
        return [folder / name for name, _ in files]

    return make


def _drawn(kind: str, path: Path) -> None:
    drawings = READERS[kind](path, ReadOptions())
    for drawing in drawings:
        rasterise(drawing.regions, SHAPE, {region.value: 1 for region in drawing.regions})
    detect_format([path], has_thresholds=False, has_colors=False)


_VIA = {
    "a.png9": {
        "filename": "a.png", "size": 9, "file_attributes": {},
        "regions": [
            {"shape_attributes": shape, "region_attributes": {"name": "pore"}}
            for shape in (
                {"name": "polygon", "all_points_x": [1, 9, 9], "all_points_y": [1, 1, 8]},
                {"name": "circle", "cx": 20, "cy": 20, "r": 5.5},
                {"name": "ellipse", "cx": 20, "cy": 20, "rx": 5, "ry": 3, "theta": 0.4},
                {"name": "rect", "x": 3, "y": 4, "width": 5, "height": 6},
                {"name": "polyline", "all_points_x": [0, 49], "all_points_y": [39, 20]},
            )
        ],
    }
}  # fmt: skip
_VIA_CSV = (
    "filename,file_size,file_attributes,region_count,region_id,region_shape_attributes,region_attributes\n"
    'a.png,9,"{}",1,0,"{""name"":""rect"",""x"":3,""y"":4,""width"":5,""height"":6}","{""name"":""pore""}"\n'
)
_LABELME = {
    "version": "5.0.1", "imagePath": "a.png", "imageHeight": 40, "imageWidth": 50, "imageData": None,
    "shapes": [
        {"label": "pore", "points": SQUARE, "shape_type": "polygon", "flags": {}, "group_id": None},
        {"label": "pore", "points": SQUARE[:2], "shape_type": "circle", "flags": {}, "group_id": 1},
        {"label": "pore", "points": SQUARE[1:3], "shape_type": "rectangle", "flags": {}},
        {"label": "pore", "points": SQUARE[:3], "shape_type": "linestrip", "flags": {}},
    ],
}  # fmt: skip
_COCO = {
    "images": [{"id": 1, "file_name": "a.png", "height": 40, "width": 50}],
    "categories": [{"id": 1, "name": "pore"}],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "iscrowd": 0, "bbox": [10, 10, 10, 20],
         "segmentation": [[10, 10, 20, 10, 20, 30]]},
        {"id": 2, "image_id": 1, "category_id": 1, "iscrowd": 1, "segmentation": {"size": [40, 50], "counts": [100, 300, 1600]}},
        {"id": 3, "image_id": 1, "category_id": 1, "iscrowd": 1, "segmentation": {"size": [40, 50], "counts": "T3\\9P2"}},
    ],
}  # fmt: skip
_CVAT = """<?xml version="1.0"?><annotations><version>1.1</version><image id="0" name="a.png" width="50" height="40">
<box label="pore" xtl="3.0" ytl="4.0" xbr="13.0" ybr="11.0" rotation="90" z_order="1"><attribute name="by">me</attribute></box>
<polygon label="silt" points="10.0,10.0;20.0,10.0;20.0,30.0;10.0,30.0" z_order="0"/>
<ellipse label="silt" cx="25" cy="20" rx="10" ry="4" rotation="45"/><polyline label="silt" points="5.5,20.5;45.5,20.5"/>
<mask label="silt" rle="1, 2, 1, 2" left="7" top="8" width="3" height="2"/></image></annotations>
"""
_GEOJSON = {
    "type": "FeatureCollection",
    "features": [
        {"type": "Feature", "properties": {"classification": {"name": "pore"}}, "geometry": geometry}
        for geometry in (
            {"type": "Polygon", "coordinates": [[*SQUARE, SQUARE[0]]]},
            {"type": "MultiPolygon", "coordinates": [[[*SQUARE, SQUARE[0]]]]},
            {"type": "LineString", "coordinates": SQUARE},
        )
    ],
}


def _rois(folder: Path) -> Sequence[Path]:
    from roifile import ROI_TYPE, ImagejRoi, roiwrite

    polygon = ImagejRoi.frompoints(np.array(SQUARE), name="pore")
    stroke = ImagejRoi.frompoints(np.array([[5.5, 20.5], [45.5, 20.5]]), name="crack")
    stroke.roitype, stroke.stroke_width = ROI_TYPE.POLYLINE, 3
    polygon.tofile(folder / "a.roi")
    roiwrite(folder / "b.zip", [polygon, stroke], name=["pore", "crack"])
    return [folder / "a.roi", folder / "b.zip"]


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
_SIDECARS = (
    (
        "a.txt",
        "$CM_FORMAT 1\n$CM_FULL_SIZE 64 60\n$$SM_MICRON_BAR 180\n$$SM_MICRON_MARKER 10um\n$CM_PIXEL_SIZE 1.2nm\n",
    ),
    ("a.tif.txt", "[SemImageFile]\nDataSize=64x60\nPixelSize=12.5\n"),
    ("a.hdr", "[MAIN]\nImageStripSize=4\n[SEM]\nPixelSizeX=2e-08\nPixelSizeY=2e-08\n"),
)
_OME = (
    '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="P" '
    'DimensionOrder="XYCZT" Type="uint8" SizeX="64" SizeY="64" SizeC="1" SizeZ="1" SizeT="1" PhysicalSizeX="0.5" '
    'PhysicalSizeY="500" PhysicalSizeYUnit="nm"><TiffData/></Pixels></Image></OME>'
)
_ZEISS = (
    "0\r\n\r\n\r\n0.5\r\nAP_PIXEL_SIZE\r\nPixel Size = 5.825 nm\r\nAP_WIDTH\r\nWidth = 5.965 um\r\n"
    "AP_HEIGHT\r\nHeight = 4.474 um\r\nDP_IMAGE_STORE\r\nStore resolution = 64 * 60\r\n"
)
_FEI = (
    "[Scan]\r\nPixelWidth=1e-08\r\nPixelHeight=1e-08\r\nHorFieldsize=6.4e-07\r\n[Image]\r\nResolutionX=64\r\n"
    "ResolutionY=60\r\n"
)
_TESCAN = "ImageStripSize=4\r\nPixelSizeX=2e-08\r\nPixelSizeY=2e-08\r\n"
_SEM = ((34118, _ZEISS), (34682, _FEI), (50431, _TESCAN))


def _sidecar(path: Path) -> None:
    for shape in ((64, 64), (60, 64)):
        read_sidecar(str(path.parent / "a.tif"), shape)


def _tiffs(folder: Path) -> Sequence[Path]:
    import tifffile

    tifffile.imwrite(folder / "strips.tif", GRAY, rowsperstrip=16)
    tifffile.imwrite(folder / "tiles.tif", GRAY, tile=(32, 32), compression="zlib", predictor=True)
    tifffile.imwrite(folder / "lzw.tif", GRAY.astype(np.uint16), compression="lzw", resolution=(100, 100))
    tifffile.imwrite(folder / "ome.tif", GRAY, description=_OME, metadata=None)
    tifffile.imwrite(folder / "imagej.tif", GRAY, imagej=True, metadata={"unit": "um"}, resolution=(2, 2))
    tifffile.imwrite(folder / "rgb.tif", np.dstack([GRAY, GRAY, GRAY]), photometric="rgb", bigtiff=True)
    return sorted(folder.glob("*.tif"))


def _sem_tiffs(folder: Path) -> Sequence[Path]:
    import tifffile

    for code, text in _SEM:
        tifffile.imwrite(folder / f"{code}.tif", GRAY, extratags=[(code, "s", 0, text, True)], metadata=None)
    return sorted(folder.glob("*.tif"))


def _pillow(folder: Path, suffixes: tuple[str, ...]) -> Sequence[Path]:
    from PIL import Image

    for suffix in suffixes:
        Image.fromarray(GRAY).save(folder / f"gray{suffix}")
        Image.fromarray(np.dstack([GRAY, GRAY, GRAY // 2])).save(folder / f"rgb{suffix}")
    return sorted(folder.iterdir())


def _mask(folder: Path) -> Sequence[Path]:
    from PIL import Image

    Image.fromarray(GRAY % 3).save(folder / "a.png")
    return [folder / "a.png"]


def _mrc(folder: Path) -> Sequence[Path]:
    import mrcfile

    with mrcfile.new(folder / "a.mrc") as file:
        file.set_data(GRAY.astype(np.int16))
        file.voxel_size = 5000
    return [folder / "a.mrc"]


def _fits(folder: Path) -> Sequence[Path]:
    from astropy.io import fits

    unit = fits.PrimaryHDU(GRAY)
    unit.header["CDELT1"], unit.header["CUNIT1"] = 0.5, "um"
    unit.writeto(folder / "a.fits")
    return [folder / "a.fits"]


def _zarr(folder: Path) -> Sequence[Path]:
    import zarr

    axes = [{"name": name, "type": "space", "unit": "micrometer"} for name in "yx"]
    datasets = [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0.5, 0.5]}]}]
    ome = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": datasets}]}
    group = zarr.create_group(folder / "a.zarr", attributes={"ome": ome})
    group.create_array("0", data=GRAY, chunks=(32, 32))
    old = zarr.create_array(folder / "b.zarr", shape=GRAY.shape, chunks=(32, 32), dtype="u1", zarr_format=2)
    old[...] = GRAY
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _opened(path: Path) -> None:
    with open_micrograph(path) as micrograph:
        height, width = micrograph.info.shape
        micrograph.read(Box(0, 0, min(height, 256), min(width, 256)))


def _opened_zarr(path: Path) -> None:
    _opened(next(parent for parent in path.parents if parent.suffix == ".zarr"))


def _named(path: Path) -> None:
    for name in os.fsdecode(path.read_bytes()).split("\n"):
        _ = names.key(name), names.text(name), names.fits(name), names.in_table({"name": name})


def _records(folder: Path) -> Sequence[Path]:
    import crc32c
    from tfrecord import example_pb2

    def masked(content: bytes) -> bytes:
        value = crc32c.crc32c(content)
        return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)

    example = example_pb2.Example()
    example.features.feature["image/height"].int64_list.value.append(40)
    content = example.SerializeToString()
    head = struct.pack("<Q", len(content))
    (folder / "a.tfrecord").write_bytes(head + masked(head) + content + masked(content))
    return [folder / "a.tfrecord"]


def _read_records(path: Path) -> None:
    from microseg_ray.annotations.records import read_records

    list(read_records(path))


PARSERS: dict[str, Parser] = {
    "annotations: VIA JSON": Parser(_texts(("a.json", json.dumps(_VIA))), partial(_drawn, "via")),
    "annotations: VIA CSV": Parser(_texts(("a.csv", _VIA_CSV)), partial(_drawn, "via")),
    "annotations: LabelMe": Parser(_texts(("a.json", json.dumps(_LABELME))), partial(_drawn, "labelme")),
    "annotations: COCO": Parser(_texts(("a.json", json.dumps(_COCO))), partial(_drawn, "coco")),
    "annotations: CVAT": Parser(_texts(("a.xml", _CVAT)), partial(_drawn, "cvat")),
    "annotations: GeoJSON": Parser(_texts(("a.geojson", json.dumps(_GEOJSON))), partial(_drawn, "geojson")),
    "annotations: ImageJ": Parser(_rois, partial(_drawn, "imagej")),
    "annotations: TFRecord": Parser(_records, _read_records),
    "annotations: label map": Parser(_texts(("labelmap.txt", "# label:color:parts:actions\npore:255,0,0::\n")), read_label_map),
    "config": Parser(_texts(("config.yaml", _CONFIG)), _configured),
    "names": Parser(_texts(("names", "a.tif\nsécante/b.TIF\n=1+1.tif\n<b>.png\n")), _named),
    "catalog.csv": Parser(partial(_catalog, suffix=".csv"), read_table),
    "catalog.parquet": Parser(partial(_catalog, suffix=".parquet"), read_table),
    "list of names": Parser(_texts(("train.txt", "11_1_a 1\n11_1_b\n")), read_list),
    "table of pixel sizes": Parser(_texts(("sizes.csv", _SIZES)), read_pixel_sizes),
    "failures.csv": Parser(_failures, read_failures),
    "accounting.csv": Parser(_accounts, read_accounts),
    "confusions.csv": Parser(_texts(("confusions.csv", _CONFUSIONS)), partial(read_confusions, specs=CLASSES)),
    "list of outputs": Parser(_manifest, _claim),
    "run: run.json and tables": Parser(_run_files, _read_run),
    "run: mask store": Parser(_store_files, _read_store),
    "checkpoint": Parser(_checkpoint, _load),
    "tile store": Parser(_tiles, _read_tiles),
    "sidecars": Parser(_texts(*_SIDECARS), _sidecar),
    "TIFF": Parser(_tiffs, _opened),
    "TIFF: SEM tags": Parser(_sem_tiffs, _opened),
    "PNG, BMP": Parser(partial(_pillow, suffixes=(".png", ".bmp")), _opened),
    "JPEG, WebP": Parser(partial(_pillow, suffixes=(".jpg", ".webp")), _opened),
    "mask PNG": Parser(_mask, read_mask),
    "MRC": Parser(_mrc, _opened),
    "FITS": Parser(_fits, _opened),
    "zarr": Parser(_zarr, _opened_zarr),
}  # fmt: skip
