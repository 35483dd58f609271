"""The loss: torch's numbers, never nan, no gradient where nothing is labelled; class weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from microseg_ray.losses import WeightedCrossEntropy, class_weights_from_counts


def naive(logits, target, weights):
    """Pixel by pixel in plain Python floats."""
    total = scale = 0.0
    for sample in range(target.shape[0]):
        for y in range(target.shape[1]):
            for x in range(target.shape[2]):
                label = int(target[sample, y, x])
                if label == 255:
                    continue
                column = logits[sample, :, y, x].double()
                total += weights[label] * float(torch.logsumexp(column, 0) - column[label])
                scale += weights[label]
    return total / scale if scale else 0.0


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**31),
    classes=st.integers(1, 4),
    unlabelled=st.sampled_from([0.0, 0.5, 1.0]),
    weighted=st.booleans(),
    dtype=st.sampled_from([torch.uint8, torch.int64]),
)
def test_is_the_weighted_mean_over_labelled_pixels(seed, classes, unlabelled, weighted, dtype):
    generator = torch.Generator().manual_seed(seed)
    logits = (3 * torch.randn(2, classes, 3, 4, generator=generator)).requires_grad_()
    target = torch.randint(0, classes, (2, 3, 4), generator=generator)
    ignored = torch.rand(target.shape, generator=generator) < unlabelled
    target[ignored] = 255
    weights = [0.5 * index for index in range(classes)] if weighted else None
    loss = WeightedCrossEntropy(weights)(logits, target.to(dtype))
    assert float(loss.detach()) == pytest.approx(
        naive(logits.detach(), target, weights or [1.0] * classes), rel=1e-5, abs=1e-6
    )
    loss.backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad.movedim(1, -1)[ignored] == 0).all()
    share = sum((weights or [1.0] * classes)[int(label)] for label in target[~ignored])
    if share:
        weight = None if weights is None else torch.tensor(weights)
        torch.testing.assert_close(loss, F.cross_entropy(logits, target, weight, ignore_index=255))
    else:
        assert loss.item() == 0
        assert (logits.grad == 0).all()


def test_nothing_labelled_is_zero_with_a_gradient():
    for weights in (None, [1.0, 2.0]):
        logits = torch.randn(1, 2, 4, 4, requires_grad=True)
        loss = WeightedCrossEntropy(weights)(logits, torch.full((1, 4, 4), 255, dtype=torch.uint8))
        assert loss.item() == 0
        loss.backward()
        assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_ignored_pixels_do_not_matter_even_if_their_logits_are_wild():
    target = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    logits = torch.tensor([[[[1.0, 1e30]], [[2.0, -1e30]]]], requires_grad=True)
    calm = logits.detach()[..., :1]
    loss = WeightedCrossEntropy()(logits, target)
    torch.testing.assert_close(loss, WeightedCrossEntropy()(calm, target[..., :1]))
    loss.backward()
    assert (logits.grad[..., 1] == 0).all()


def test_bf16_logits_are_summed_in_float32():
    logits = torch.zeros(1, 2, 64, 64, dtype=torch.bfloat16)
    loss = WeightedCrossEntropy()(logits, torch.zeros(1, 64, 64, dtype=torch.uint8))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(np.log(2), abs=1e-6)


def test_weights_are_checked_and_not_saved():
    assert WeightedCrossEntropy([1.0, 2.0]).state_dict() == {}
    assert WeightedCrossEntropy(np.array([1.0, 2.0])).class_weights.dtype == torch.float32
    for wrong in ([-1.0, 1.0], [float("nan")], [[1.0]]):
        with pytest.raises(ValueError, match="class weights"):
            WeightedCrossEntropy(wrong)
    with pytest.raises(ValueError, match="2 class weights for 3 classes"):
        WeightedCrossEntropy([1.0, 2.0])(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.uint8))


@settings(deadline=None)
@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=6))
def test_inverse_weights_make_every_present_class_count_the_same(counts):
    weights = class_weights_from_counts(np.array(counts), "inverse")
    present = np.array(counts) > 0
    assert weights.dtype == np.float64
    assert (weights[~present] == 0).all()
    if present.any():
        assert weights[present].mean() == pytest.approx(1)
        products = weights[present] * np.array(counts)[present]
        np.testing.assert_allclose(products, products[0], rtol=1e-9)
    # With totals only there are no tiles that lack a class, so the two agree.
    np.testing.assert_allclose(class_weights_from_counts(np.array(counts), "median"), weights)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 1000), min_size=3, max_size=3), min_size=1, max_size=5))
def test_median_weights_use_the_tiles_that_hold_a_class(rows):
    counts = np.array(rows)
    frequencies = []
    for index in range(3):
        holding = counts[counts[:, index] > 0]
        frequencies.append(holding[:, index].sum() / holding.sum() if len(holding) else None)
    present = [f for f in frequencies if f is not None]
    median = np.median(present) if present else 0
    naive_weights = np.array([median / f if f is not None else 0.0 for f in frequencies])
    if present:
        naive_weights /= naive_weights[naive_weights > 0].mean()
    np.testing.assert_allclose(class_weights_from_counts(counts, "median"), naive_weights, rtol=1e-9)


def test_no_weights_and_wrong_ones():
    assert class_weights_from_counts(np.array([5, 0]), "none").tolist() == [1, 1]
    assert class_weights_from_counts(np.array([0, 0]), "inverse").tolist() == [0, 0]
    with pytest.raises(ValueError, match="'maximum' are unknown"):
        class_weights_from_counts(np.array([1]), "maximum")
    for wrong in (np.array([-1, 2]), np.zeros((2, 2, 2), int), np.array([], int)):
        with pytest.raises(ValueError, match="pixel counts are"):
            class_weights_from_counts(wrong, "inverse")
