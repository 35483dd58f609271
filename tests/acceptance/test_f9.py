"""F9: the thirteen fracture images, saved as JPEG, PNG and TIFF mixed: thirteen masks, overlays, nothing read twice."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from PIL import Image

from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore

SUFFIXES = (".jpg", ".png", ".tif", ".tiff", ".jpeg")


@pytest.mark.slow
def test_thirteen_masks_of_mixed_formats(real_data, tmp_path, checkpoint, microseg):
    archive, names, images = tmp_path / "study", [], {}
    archive.mkdir()
    for number, path in enumerate(sorted((real_data / "fracture").glob("*.jpg"))):
        name = path.stem + SUFFIXES[number % 5]
        pixels = np.array(Image.open(path).convert("L"))
        # Sizes that no tile divides, beside the original one.
        pixels = pixels[: 640 - 7 * number, : 640 - 3 * number] if number % 2 else pixels
        if name.endswith((".tif", ".tiff")):
            tifffile.imwrite(archive / name, pixels, compression="zlib")
        else:
            Image.fromarray(pixels).save(archive / name, **({"quality": 95} if ".jp" in name else {}))
        names.append(name)
        images[name] = np.array(Image.open(archive / name))
    options = ("--archive", archive, "--checkpoint", checkpoint, "--output", tmp_path / "run", "--workers", 0)
    first = microseg("segment", *options, "--tile", 640, "--precision", "fp32")
    assert first.code == 0, first.err
    run = Run.open(tmp_path / "run")
    assert run.names() == sorted(names)
    assert len(names) == 13
    assert microseg("measure", "--run", tmp_path / "run", "--overlays", 13).code == 0
    colours = np.array([[int(item.color[place : place + 2], 16) for place in (1, 3, 5)] for item in run.classes])
    for name in names:
        mask = np.asarray(MaskStore.open(run.store_path(name)).mask[:])
        assert mask.shape == images[name].shape
        drawn = np.array(Image.open(tmp_path / "run/overlays" / f"{name}.png").convert("RGB")).astype(float)
        bare = np.abs(drawn - (0.65 * images[name][..., None] + 0.35 * colours[mask])).max(axis=-1) <= 2
        # The rest is the scale bar or the legend, where one is drawn.
        assert bare.mean() > 0.9, name
    again = microseg("segment", *options, "--tile", 640, "--precision", "fp32")
    assert again.code == 0, again.err
    assert Run.open(tmp_path / "run").names() == sorted(names), "the second run read what the first wrote"
    print(f"F9: {len(names)} masks of {len(names)} images ({', '.join(SUFFIXES)}); the second run read the same 13")
