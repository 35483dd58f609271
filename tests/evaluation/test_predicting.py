"""evaluate with a checkpoint judges the very pixels that segment writes; pixels without a finite score are no class."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from microseg_ray.catalog import CatalogRow
from microseg_ray.errors import MicrosegError
from microseg_ray.evaluation import predicting
from microseg_ray.evaluation.metrics import ConfusionMatrix
from microseg_ray.evaluation.predicting import CheckpointPredictions
from microseg_ray.models.card import ModelCard, ReceptiveField
from microseg_ray.models.predictor import Predictor
from microseg_ray.runs.segment import segment
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.settings import ClassSpec, EvaluateSettings, SegmentSettings
from microseg_ray.stitching import EnginePlan, engine_grid, predict_shard, stitch

ENGINES = {
    "crop": {},
    "crop, small tiles": {"tile": 96, "shard": 64, "batch": 3, "halo": 8},
    "hann": {"blend": "hann", "tile": 64, "shard": 64},
    "gaussian": {"blend": "gaussian", "tile": 64, "overlap": 0.25},
    "mean": {"blend": "mean", "tile": 64, "overlap": 0.75, "shard": 64, "batch": 1},
    "tta": {"tta": True, "shard": 64},
    "hann with tta": {"blend": "hann", "tta": True, "tile": 64},
    "fp32": {"precision": "fp32", "shard": 64},
}


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pair")
    generator = np.random.default_rng(0)
    coarse = np.kron(generator.random((9, 11)), np.ones((16, 16)))[:140, :170]
    pixels = (255 * (0.7 * coarse + 0.3 * generator.random(coarse.shape))).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "a.png")
    (folder / "masks").mkdir()
    Image.fromarray(np.zeros(pixels.shape, np.uint8)).save(folder / "masks" / "a.png")
    return folder


@pytest.mark.parametrize("options", ENGINES.values(), ids=ENGINES)
def test_evaluate_judges_the_masks_that_segment_writes(pair, checkpoint, tmp_path, options):
    common = {"checkpoint": str(checkpoint), **options}
    chosen = SegmentSettings(archive=str(pair / "a.png"), output=str(tmp_path / "run"), workers=0, **common)
    written = np.asarray(MaskStore.open(segment(chosen).run.store_path("a.png")).mask[:])
    assert len(np.unique(written)) > 1
    masks = pair / "masks"
    predictions = CheckpointPredictions(EvaluateSettings(images=str(pair / "a.png"), masks=str(masks), **common))
    found = predictions.pair(CatalogRow("a.png", pair / "a.png", masks / "a.png", "a", "train"))
    truth, seen = np.zeros(written.shape, np.uint8), np.full((3, *written.shape), np.nan)

    def sink(box, scores, guess):
        seen[(..., *box.slices)] = scores
        assert np.array_equal(guess, written[box.slices])

    assert np.array_equal(found.predict(truth, None), written)
    assert np.array_equal(found.predict(truth, sink), written)
    predictions.close()
    assert np.isfinite(seen).all()
    assert seen.sum(axis=0) == pytest.approx(1, abs=5e-3)


def test_evaluate_has_every_setting_of_the_engine_that_decides_pixels():
    for name in predicting._ENGINE:
        assert EvaluateSettings.model_fields[name].default == SegmentSettings.model_fields[name].default, name


class Broken(nn.Module):
    """A model whose logits are not finite where the pixel is bright."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, images):
        logits = torch.cat([images, -images], dim=1)
        return torch.where(images > 0.9, torch.full_like(images, self.value), logits)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("give", ["masks", "scores", "logits"])
def test_logits_that_are_not_finite_are_no_class(value, give):
    card = ModelCard(
        architecture="unet",
        in_channels=1,
        classes=(ClassSpec(name="dark"), ClassSpec(name="bright")),
        receptive_field=ReceptiveField(radius=0, stride=1),
    )
    predictor = Predictor(Broken(value), card, precision="fp32")
    tiles = np.zeros((2, 1, 8, 8), np.uint8)
    assert getattr(predictor, give)(tiles, (0, 255)) is not None
    tiles[1, 0, 3, 4] = 255
    with pytest.raises(MicrosegError, match="in 1 pixels of a batch, which belong to no class"):
        getattr(predictor, give)(tiles, (0, 255))


@pytest.mark.parametrize("blend", ["crop", "hann", "mean"])
def test_scores_that_are_not_finite_are_not_joined(blend):
    class Nan:
        classes = 2

        def scores(self, batch, limits):
            share = np.where(batch == 7, np.nan, 0.5).astype(np.float32)
            return np.concatenate([share, 1 - share], axis=1)

    image = np.zeros((1, 16, 16), np.uint8)
    image[0, 5, 5] = 7
    plan = EnginePlan(tile=8, halo=0, stride=1, shard=16, blend=blend, tta=True)
    grid = engine_grid((16, 16), plan)
    with pytest.raises(MicrosegError, match="in 1 pixels, which belong to no class"):
        predict_shard(image, Nan(), grid, next(iter(engine_grid((16, 16), EnginePlan(16, 0, 1, 16)))).box, plan, (0, 1))


def test_stitch_refuses_scores_without_a_finite_maximum():
    scores = np.zeros((2, 4, 4), np.float32)
    scores[:, 1, 2] = -np.inf
    with pytest.raises(ValueError, match="y=1, x=2 have no finite maximum"):
        stitch([((0, 0), scores)], shape=(4, 4))


def test_a_micrograph_with_nan_is_quarantined_by_name(checkpoint, pair, tmp_path):
    import tifffile

    folder = tmp_path / "archive"
    folder.mkdir()
    generator = np.random.default_rng(1)
    fine = generator.random((70, 64), np.float32)
    broken = fine.copy()
    broken[30, 30] = np.nan
    tifffile.imwrite(folder / "fine.tif", fine)
    tifffile.imwrite(folder / "broken.tif", broken)
    chosen = SegmentSettings(
        archive=str(folder), checkpoint=str(checkpoint), output=str(tmp_path / "run"), workers=0, shard=64
    )
    result = segment(chosen)
    assert {failure.path for failure in result.ledger.failures} == {"broken.tif"}
    assert {row.micrograph for row in result.areas} == {"fine.tif"}


def test_withheld_pixels_are_counted_beside_every_figure(pair, tmp_path, microseg):
    for name in ("truth", "guess"):
        (tmp_path / name).mkdir()
    truth = np.repeat(np.array([[0, 1]], np.uint8), 5, axis=0).repeat(5, axis=1)
    guess = truth.copy()
    guess[:, :4] = 255
    Image.fromarray(truth).save(tmp_path / "truth" / "a.png")
    Image.fromarray(guess).save(tmp_path / "guess" / "a.png")
    ran = microseg(
        *("evaluate", "--masks", tmp_path / "truth", "--predictions", tmp_path / "guess", "--figures", "false"),
        *("--classes", '["dark", "bright"]', "--output", tmp_path / "out"),
    )
    assert ran.code == 0, ran.err
    assert "20 labelled pixels (40.00 %) are predicted as 255" in ran.out
    document = json.loads((tmp_path / "out" / "metrics.json").read_text())
    for key in ("pooled", "per_image"):
        figures = document[key]
        assert (figures["pixel_accuracy"], figures["coverage"], figures["withheld"]) == (1.0, 0.6, 20)
        assert figures["classes"]["dark"]["withheld"] == 20
        assert figures["classes"]["bright"]["withheld"] == 0
    for table, column in (("per_image.csv", "withheld"), ("classes.csv", "withheld"), ("areas.csv", "withheld_pixels")):
        lines = (tmp_path / "out" / table).read_text().replace('"', "").splitlines()
        assert "20" in [line.split(",")[lines[0].split(",").index(column)] for line in lines[1:]], table


def test_withheld_pixels_are_merged():
    one, two = ConfusionMatrix.zeros(2), ConfusionMatrix.zeros(2)
    for matrix in (one, two):
        matrix.update(np.array([0, 1, 1, 255]), np.array([0, 255, 1, 255]), unmeasured="ignore")
    assert (one + two).withheld.tolist() == [0, 2]
    assert one == two
    assert one != ConfusionMatrix(one.counts)
