"""A fit that is held to its first weights where nothing is labelled."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from microseg_ray.fitting.setup import fresh, loss_of
from microseg_ray.fitting.stepping import StepOptions, Stepper, divergence
from microseg_ray.fitting.train import StopFit, train
from microseg_ray.fitting.workers import Workers
from microseg_ray.models.checkpoint import load_checkpoint
from microseg_ray.settings import TrainSettings
from microseg_ray.tiles.store import TileStore

MODEL = {"name": "unet", "width": 3, "depth": 1}


def chosen(tiles, output, **options) -> TrainSettings:
    given = {"tiles": str(tiles), "output": str(output), "epochs": 1, "batch": 4, "workers": 0, "threads": 1}
    return TrainSettings(**{**given, "model": MODEL, "steps_per_epoch": 2, "precision": "fp32", **options})


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 4), st.floats(0, 1))
def test_the_divergence_is_that_of_a_loop_over_pixels(seed, classes, labelled):
    generator = np.random.default_rng(seed)
    before, after = (torch.from_numpy(generator.normal(0, 3, (2, classes, 3, 4))) for _ in range(2))
    masks = np.where(generator.random((2, 3, 4)) < labelled, 0, 255).astype(np.uint8)
    found = []
    for place in zip(*np.nonzero(masks == 255), strict=True):
        tile, y, x = (int(each) for each in place)
        old, new = (np.exp(each[tile, :, y, x].numpy()) for each in (before, after))
        old, new = old / old.sum(), new / new.sum()
        found.append(float((old * np.log(old / new)).sum()))
    expected = np.mean(found) if found else 0.0
    assert float(divergence(before, after, torch.from_numpy(masks))) == pytest.approx(expected, abs=1e-5)


def test_it_moves_less_where_nothing_is_labelled_and_still_learns_the_labels(tiles, tmp_path):
    """The same steps on the same few labels, held and not held."""
    store = TileStore.open(tiles)
    images = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(1))
    masks = torch.full((4, 32, 32), 255, dtype=torch.uint8)
    masks[:, :2, :6] = 2
    moved, right = {}, {}
    for hold in (0.0, 20.0):
        settings_ = chosen(tiles, tmp_path, optimizer={"learning_rate": 2e-2})
        state = fresh(settings_, store, Workers())
        first = copy.deepcopy(state.model).eval().requires_grad_(False)
        state.model.eval()
        stepper = Stepper(
            state, state.model, loss_of(settings_.loss, "none", store), StepOptions("fp32", hold=hold), Workers(), first
        )
        start, _ = stepper.part(images, masks, last=True)
        for _ in range(15):
            stepper.start(2e-2)
            value, logits = stepper.part(images, masks, last=True)
            stepper.finish()
        moved[hold] = float(divergence(first(images), logits, masks))
        right[hold] = float(value) < float(start)
    assert moved[20.0] < 0.5 * moved[0.0]
    assert right == {0.0: True, 20.0: True}


def test_it_needs_weights_and_a_resumed_fit_is_held_to_the_same_ones(tiles, tmp_path):
    with pytest.raises(ValidationError, match=r"give model\.weights, or leave hold out"):
        chosen(tiles, tmp_path, hold=1.0)
    train(chosen(tiles, tmp_path / "start"))
    weights = str(tmp_path / "start" / "last")
    held = chosen(tiles, tmp_path / "held", hold=1.0, model={**MODEL, "weights": weights})
    stopped = train(held.model_copy(update={"epochs": 2}), _stop_after_the_first)
    assert len(stopped.history) == 1
    train(held.model_copy(update={"epochs": 2}))
    train(chosen(tiles, tmp_path / "whole", epochs=2, hold=1.0, model={**MODEL, "weights": weights}))
    halves, whole, free = (
        load_checkpoint(tmp_path / name / "last")[0].state_dict() for name in ("held", "whole", "start")
    )
    assert all(torch.equal(halves[name], whole[name]) for name in whole)
    assert not all(torch.equal(free[name], whole[name]) for name in whole)


def _stop_after_the_first(progress):
    if progress.last is not None:
        raise StopFit
