"""P2: good pairs are stored bit for bit; a missing file, a mask of another size and a wrong suffix are reported."""

from __future__ import annotations

import csv

import numpy as np
import zarr
from PIL import Image

from microseg_ray.geometry import Box
from microseg_ray.tiles.store import TileStore

SHAPE = (96, 80)


def write(folder):
    """Three good pairs, one of them a PNG named .jpg, one mask of another size, and a table with a file that is missing."""
    generator = np.random.default_rng(3)
    rows, images = [], {}
    for name, suffix in (("a", ".png"), ("b", ".jpg"), ("c", ".tif"), ("wide", ".png")):
        images[name + suffix] = generator.integers(0, 255, SHAPE, dtype=np.uint8)
        Image.fromarray(images[name + suffix]).save(
            folder / (name + suffix), format="TIFF" if suffix == ".tif" else "PNG"
        )
        mask = generator.integers(0, 3, SHAPE if name != "wide" else (96, 81), dtype=np.uint8)
        Image.fromarray(mask).save(folder / f"{name}_mask.png")
        rows.append((name + suffix, f"{name}_mask.png", "train"))
    rows.append(("missing.png", "a_mask.png", "train"))
    with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("micrograph", "mask", "split"), *rows])
    return images


def test_good_pairs_are_stored_and_the_others_are_reported(tmp_path, microseg):
    images = write(tmp_path)
    ran = microseg(
        "tile", "--table", tmp_path / "table.csv", "--output", tmp_path / "tiles", "--tile", 32, "--overlap", 0,
        "--classes", '["clay", "silt", "pore"]', "--workers", 0, "--source.info_bar", "none",
    )  # fmt: skip
    assert ran.code == 3, ran.err
    assert "b.jpg: the file is PNG although its name says JPEG" in ran.out
    with (tmp_path / "tiles/failures.csv").open(encoding="utf-8") as file:
        reasons = {row["path"].rsplit("/", 1)[-1]: row["reason"] for row in csv.DictReader(file)}
    assert reasons.keys() == {"missing.png", "wide.png"}
    assert "no such file" in reasons["missing.png"]
    assert "96 x 81 px" in reasons["wide.png"]
    store = TileStore.open(tmp_path / "tiles")
    table = store.table.to_pylist()
    assert {row["micrograph"] for row in table} == {"a.png", "b.jpg", "c.tif"}
    group = zarr.open_group(tmp_path / "tiles/tiles.zarr", mode="r")
    for index, row in enumerate(table):
        box = Box(row["y0"], row["x0"], row["y0"] + 32, row["x0"] + 32)
        mask = np.array(Image.open(tmp_path / f"{row['micrograph'].split('.')[0]}_mask.png"))
        np.testing.assert_array_equal(group["images"][index, 0], images[row["micrograph"]][box.slices])
        np.testing.assert_array_equal(group["masks"][index], mask[box.slices])
    print(
        f"P2: {len(table)} tiles of 3 pairs equal to their files; reported: b.jpg (PNG), {', '.join(sorted(reasons))}"
    )
