"""Images that are not divided, with a runtime that compiles: the graph of any size computes them."""

import numpy as np
import pytest
import torch

from microseg_ray.models import build_model
from microseg_ray.models.card import ModelCard
from microseg_ray.models.predictor import Predictor
from microseg_ray.models.receptive_field import measure_receptive_field
from microseg_ray.settings import ClassSpec

pytest.importorskip("openvino")
LIMITS = (0.0, 255.0)


def test_an_undivided_image_is_the_whole_pass_and_converts_nothing(monkeypatch):
    torch.manual_seed(3)
    model = build_model("resunet", 1, 3, {"width": 4, "depth": 2, "detail": 4, "dilations": (1,)}).eval()
    card = ModelCard(
        architecture="resunet",
        in_channels=1,
        classes=tuple(ClassSpec(name=name) for name in "abc"),
        receptive_field=measure_receptive_field(model, 1),
    )
    predictor = Predictor(model, card, threads=1, runtime="openvino")
    image = np.random.default_rng(0).integers(0, 256, (1, 96, 80), dtype=np.uint8)
    mask, scores = predictor.masks(image[None], LIMITS)[0], predictor.scores(image[None], LIMITS)[0]
    monkeypatch.setattr(type(predictor.runtime), "convert", None)
    (rows,) = predictor.strips(32).run(lambda top, end: image[:, top:end], (96, 80), LIMITS, scores=True)
    assert rows.begin == 0
    np.testing.assert_array_equal(rows.mask, mask)
    np.testing.assert_array_equal(rows.scores, scores)
