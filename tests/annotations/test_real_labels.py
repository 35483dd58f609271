"""`microseg annotate` on the real data: presets, configs, class pixels, areas that COCO says."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import imagecodecs
import numpy as np
import pytest
import tifffile

from microseg_ray.annotations import ReadOptions, annotate
from microseg_ray.annotations.readers.coco import read_coco
from microseg_ray.geometry import Box
from microseg_ray.settings import AnnotateSettings, load_settings
from microseg_ray.sources import read_mask

if TYPE_CHECKING:
    from microseg_ray.annotations import AnnotationReport


REPOSITORY = Path(__file__).resolve().parents[2]


def from_config(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> AnnotationReport:
    # Paths in a config are relative to where the job is started.
    monkeypatch.chdir(REPOSITORY)
    config = REPOSITORY / "configs" / f"{name}.yaml"
    output = ["--output", str(tmp_path / "masks")]
    return annotate(load_settings(AnnotateSettings, [*output, *more], config))


@pytest.mark.parametrize(
    ("name", "images", "pixels", "unmatched"),
    [
        ("ccd_v0", 12, (757434, 22597, 3267, 3134), 0),
        ("ccd", 60, (1609347, 985674, 841035, 496004), 100),
        ("coating", 16, (13795860, 2931777, 49579), 0),
        ("superalloy", 18, (2280465, 2332325, 105802), 0),
    ],
)
@pytest.mark.usefixtures("real_data")
def test_class_pixels_of_the_real_data(
    name: str, images: int, pixels: tuple[int, ...], unmatched: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = from_config(name, tmp_path, monkeypatch)
    assert (len(report.masks), report.pixels) == (images, pixels)
    assert (sum(report.unmatched_pixels.values()), report.ignored) == (unmatched, unmatched)
    assert set(report.problems) == ({"pixels that fit no rule"} if unmatched else set())
    shares = np.array([share for share in report.fractions if share is not None])
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    print(name, dict(zip(report.classes, shares.round(4).tolist(), strict=True)))


def test_class_weights_of_the_ccd_images(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # System 3: percentages rounded to two decimals, then inverted and scaled to add up to the number of classes.
    assert real_data.is_dir()
    expected = {"ccd": (0.513, 0.838, 0.982, 1.666), "ccd_v0": (0.008, 0.266, 1.818, 1.908)}
    for name, weights in expected.items():
        report = from_config(name, tmp_path / name, monkeypatch)
        percent = np.round(np.array(report.pixels) / (sum(report.pixels) + report.ignored) * 100, 2)
        assert (1 / percent / (1 / percent).sum() * 4).round(3).tolist() == list(weights)


def test_sixteen_bit_superalloy_files_give_the_same_masks(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "deep"
    for number, image in enumerate(sorted((real_data / "superalloy" / "test").glob("*.tif"))):
        mask = real_data / "superalloy" / "test_annot" / f"{image.stem}_mask.tif"
        (root / "test").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(root / "test" / image.name, tifffile.imread(image).astype(np.uint16) * 257, photometric="rgb")
        deep = tifffile.imread(mask).astype(np.uint16) * 257
        if number == 0:
            (root / "test" / f"{image.stem}_mask.png").write_bytes(imagecodecs.png_encode(deep))
        else:
            tifffile.imwrite(root / "test" / mask.name, deep, photometric="rgb", extrasamples=["unassalpha"])
    where = ["--images", f"{root}/test", "--annotations", f"{root}/test"]
    report = from_config("superalloy", tmp_path, monkeypatch, *where)
    assert (len(report.masks), report.problems, report.failures) == (4, {}, [])
    # Images and annotations lie in one folder here, and no annotation was taken for an image.
    assert report.images == 4
    for line in report.masks:
        stem = Path(line.image).stem
        shown = tifffile.imread(real_data / "superalloy" / "test_annot" / f"{stem}_mask.tif")[..., :3].astype(int)
        expected = np.where((shown == (0, 0, 255)).all(-1), 1, np.where((shown == (255, 0, 0)).all(-1), 2, 0))
        assert (read_mask(tmp_path / "masks" / line.mask) == expected).all()


def test_melt_pools_have_the_areas_that_coco_says(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = from_config("meltpool", tmp_path, monkeypatch)
    assert (len(report.masks), report.regions, report.problems) == (34, Counter({"melt pool": 188}), {})
    document = json.loads((real_data / "meltpool" / "coco.json").read_text(encoding="utf-8"))
    regions = [
        region
        for drawing in read_coco(real_data / "meltpool" / "coco.json", ReadOptions())
        for region in drawing.regions
    ]
    image = Box(0, 0, 512, 512)
    raster = {region.where.rsplit(".", 1)[1]: region.shape.fill(image).sum() for region in regions}
    drawn = np.array([raster[str(place)] for place in range(len(document["annotations"]))])
    stated = np.array([one["area"] for one in document["annotations"]])
    assert drawn.sum() == pytest.approx(stated.sum(), rel=0.001)
    # A few small ones are a few pixels off.
    assert (np.abs(drawn - stated) <= np.maximum(0.01 * stated, 20)).all()
    assert (np.abs(drawn - stated) <= 0.01 * stated).mean() > 0.97
    # Masks hold the union, and melt pools hardly overlap.
    assert report.pixels[1] == pytest.approx(stated.sum(), rel=0.01)
    print("meltpool", report.pixels, report.fractions)
