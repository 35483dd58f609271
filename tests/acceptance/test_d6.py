"""D6: a probability CSV per image and target, of the image's own size, also where no tile divides it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

SHAPES = {"wide.png": (777, 1000), "tall.png": (520, 333), "tile.png": (512, 512)}


@pytest.mark.slow
@pytest.mark.parametrize("target", ["void", "prec", "disloc"])
def test_a_csv_of_the_whole_image(tmp_path, new_checkpoint, microseg, target):
    (tmp_path / "images").mkdir()
    for number, (name, shape) in enumerate(SHAPES.items()):
        pixels = np.random.default_rng(number).integers(0, 255, shape, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "images" / name)
    model = new_checkpoint(tmp_path / "model" / "best", classes=("matrix", target))
    ran = microseg(
        "segment", "--archive", tmp_path / "images", "--checkpoint", model, "--output", tmp_path / "run",
        "--extra", "probabilities", "--workers", 0, "--tile", 512, "--precision", "fp32",
    )  # fmt: skip
    assert ran.code == 0, ran.err
    ran = microseg("probabilities", "--run", tmp_path / "run", "--class_name", target, "--output", tmp_path / "maps")
    assert ran.code == 0, ran.err
    for name, shape in SHAPES.items():
        values = np.loadtxt(tmp_path / "maps/maps" / f"{name.split('.')[0]}_{target}.csv")
        assert values.shape == shape
        assert 0 <= values.min() < values.max() <= 1
        # Not stretched to 0 and 1, as the original did: an image without the target keeps its low values.
        assert (values.min(), values.max()) != (0, 1)
    sizes = ", ".join(f"{width} x {height}" for height, width in SHAPES.values())
    print(f"D6 {target}: maps of {sizes}, values {values.min():.3f} to {values.max():.3f}")
