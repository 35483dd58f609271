"""The losses: torch's, MONAI's and naive numbers, never nan, no gradient where nothing is labelled; class weights."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from microseg_ray.fitting.losses import CrossEntropy, Focal, Lovasz, Tversky, build_loss, class_weights_from_counts
from microseg_ray.settings import LossSettings


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
    loss = CrossEntropy(weights)(logits, target.to(dtype))
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
        loss = CrossEntropy(weights)(logits, torch.full((1, 4, 4), 255, dtype=torch.uint8))
        assert loss.item() == 0
        loss.backward()
        assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_ignored_pixels_do_not_matter_even_if_their_logits_are_wild():
    target = torch.tensor([[[0, 255]]], dtype=torch.uint8)
    logits = torch.tensor([[[[1.0, 1e30]], [[2.0, -1e30]]]], requires_grad=True)
    calm = logits.detach()[..., :1]
    loss = CrossEntropy()(logits, target)
    torch.testing.assert_close(loss, CrossEntropy()(calm, target[..., :1]))
    loss.backward()
    assert (logits.grad[..., 1] == 0).all()


def test_bf16_logits_are_summed_in_float32():
    logits = torch.zeros(1, 2, 64, 64, dtype=torch.bfloat16)
    loss = CrossEntropy()(logits, torch.zeros(1, 64, 64, dtype=torch.uint8))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(np.log(2), abs=1e-6)


def test_weights_are_checked_and_not_saved():
    assert CrossEntropy([1.0, 2.0]).state_dict() == {}
    assert CrossEntropy(np.array([1.0, 2.0])).class_weights.dtype == torch.float32
    for wrong in ([-1.0, 1.0], [float("nan")], [[1.0]]):
        with pytest.raises(ValueError, match="class weights"):
            CrossEntropy(wrong)
    with pytest.raises(ValueError, match="2 class weights for 3 classes"):
        CrossEntropy([1.0, 2.0])(torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2, dtype=torch.uint8))


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


def test_the_ccd_rule_of_rounded_percentages():
    """As published: 1609347, 985674, 841035 and 496004 pixels of background, glow, hot pixel and cluster."""
    counts = np.array([1609347, 985674, 841035, 496004])
    percent = [round(100 * count / counts.sum(), 2) for count in counts.tolist()]
    naive_weights = [4 / share / sum(1 / other for other in percent) for share in percent]
    found = class_weights_from_counts(counts, "inverse_percent")
    np.testing.assert_allclose(found, naive_weights, rtol=1e-12)
    np.testing.assert_allclose(found, [0.513, 0.838, 0.982, 1.666], atol=0.002)
    exact = class_weights_from_counts(counts, "inverse")
    np.testing.assert_allclose(found, exact, rtol=1e-3)
    assert not np.array_equal(found, exact)
    v0 = class_weights_from_counts(np.array([757434, 22597, 3267, 3134]), "inverse_percent")
    np.testing.assert_allclose(v0, [0.008, 0.266, 1.818, 1.908], atol=0.002)
    rare = class_weights_from_counts(np.array([10**9, 1, 0]), "inverse_percent")
    assert np.isfinite(rare).all()
    assert rare[2] == 0


def test_no_weights_and_wrong_ones():
    assert class_weights_from_counts(np.array([5, 0]), "none").tolist() == [1, 1]
    assert class_weights_from_counts(np.array([0, 0]), "inverse").tolist() == [0, 0]
    with pytest.raises(ValueError, match="'maximum' are unknown"):
        class_weights_from_counts(np.array([1]), "maximum")
    for wrong in (np.array([-1, 2]), np.zeros((2, 2, 2), int), np.array([], int)):
        with pytest.raises(ValueError, match="pixel counts are"):
            class_weights_from_counts(wrong, "inverse")


# --- all of them ---------------------------------------------------------------------------------------------------

EVERY = {
    "cross_entropy": LossSettings(cross_entropy=1, label_smoothing=0.1),
    "over_pixels": LossSettings(cross_entropy=1, mean_over="pixels"),
    "focal": LossSettings(focal=1),
    "dice": LossSettings(dice=1),
    "dice_image": LossSettings(dice=1, regions="image"),
    "tversky": LossSettings(tversky=1),
    "lovasz": LossSettings(lovasz=1),
    "sum": LossSettings(cross_entropy=0.5, dice=1, focal=0.3, tversky=2, lovasz=0.7),
}


def random_case(seed=0, images=4, classes=3, unlabelled=0.3, side=6):
    generator = torch.Generator().manual_seed(seed)
    logits = (2 * torch.randn(images, classes, side, side, generator=generator)).requires_grad_()
    target = torch.randint(0, classes, (images, side, side), generator=generator)
    target[torch.rand(target.shape, generator=generator) < unlabelled] = 255
    return logits, target


@pytest.mark.parametrize("name", EVERY)
def test_an_unlabelled_pixel_has_exactly_no_gradient_and_no_say(name):
    loss = build_loss(EVERY[name], [0.5, 1.0, 3.0])
    logits, target = random_case()
    value = loss(logits, target.to(torch.uint8))
    value.backward()
    ignored = target == 255
    assert (logits.grad.movedim(1, -1)[ignored] == 0).all()
    assert (logits.grad.movedim(1, -1)[~ignored] != 0).any()
    wild = logits.detach().clone()
    wild.movedim(1, -1)[ignored] = torch.tensor([1e20, -1e20, 7.0])
    assert float(loss(wild, target)) == pytest.approx(float(value.detach()), rel=1e-6)
    empty = torch.randn(2, 3, 4, 4, requires_grad=True)
    nothing = loss(empty, torch.full((2, 4, 4), 255))
    nothing.backward()
    assert nothing.item() == 0
    assert (empty.grad == 0).all()


@pytest.mark.parametrize("name", EVERY)
def test_sums_add_up_over_workers_and_give_the_same_slope(name):
    """What distributed steps rest on: everyone's sums, this worker's slope."""
    loss = build_loss(EVERY[name], [0.5, 1.0, 3.0])
    logits, target = random_case(3)
    whole = loss(logits, target)
    whole.backward()
    expected, logits.grad = logits.grad.clone(), None
    shares = [loss.sums(logits[start::3], target[start::3]) for start in range(3)]
    everyone = sum(share.detach() for share in shares)
    torch.testing.assert_close(loss.value(everyone), whole.detach())
    for share in shares:
        loss.value(everyone + (share - share.detach())).backward(retain_graph=True)
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("name", EVERY)
def test_following_the_slope_finds_the_labels(name):
    loss = build_loss(EVERY[name])
    _, target = random_case(5, images=2)
    logits = torch.zeros(2, 3, 6, 6, requires_grad=True)
    optimizer = torch.optim.Adam([logits], lr=0.2)
    for _ in range(60):
        optimizer.zero_grad()
        loss(logits, target).backward()
        optimizer.step()
    known = target != 255
    assert (logits.argmax(dim=1) == target)[known].float().mean() > 0.99


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 4), per_image=st.booleans())
def test_dice_and_tversky_equal_a_naive_sum(seed, classes, per_image):
    logits, target = random_case(seed, images=2, classes=classes, side=4)
    shares, labels = logits.detach().softmax(dim=1).double().numpy(), target.numpy()

    def naive_loss(pixels):
        lost = []
        for index in range(classes):
            hits = false_positives = false_negatives = 0.0
            for image, y, x in pixels:
                share = shares[image, index, y, x]
                if labels[image, y, x] == index:
                    hits, false_negatives = hits + share, false_negatives + 1 - share
                else:
                    false_positives += share
            if any(labels[pixel] == index for pixel in pixels):
                lost.append(1 - hits / (hits + 0.2 * false_positives + 0.9 * false_negatives))
        return float(np.mean(lost)) if lost else None

    known = [tuple(pixel) for pixel in np.argwhere(labels != 255)]
    groups = [[pixel for pixel in known if pixel[0] == image] for image in (0, 1)] if per_image else [known]
    parts = [value for value in map(naive_loss, groups) if value is not None]
    loss = Tversky(0.2, 0.9, "image" if per_image else "batch")
    assert float(loss(logits.detach(), target)) == pytest.approx(np.mean(parts) if parts else 0, rel=1e-5)


def test_they_equal_monai_where_all_is_labelled():
    from monai.losses import DiceLoss, FocalLoss, TverskyLoss

    logits, target = random_case(7, images=3, unlabelled=0)
    labels = target.unsqueeze(1)
    options = {"softmax": True, "to_onehot_y": True, "smooth_nr": 0.0, "smooth_dr": 1e-9}
    pairs = [
        (Tversky(0.5, 0.5), DiceLoss(**options, batch=True)),
        (Tversky(0.5, 0.5, "image"), DiceLoss(**options)),
        (Tversky(0.3, 0.7), TverskyLoss(**options, alpha=0.3, beta=0.7, batch=True)),
    ]
    for ours, theirs in pairs:
        torch.testing.assert_close(ours(logits, target), theirs(logits, labels), rtol=1e-5, atol=1e-6)
    # MONAI's mean is over classes too.
    focal = FocalLoss(gamma=2.0, use_softmax=True, to_onehot_y=True)(logits, labels) * 3
    torch.testing.assert_close(Focal(2.0)(logits, target), focal, rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), classes=st.integers(2, 4))
def test_lovasz_equals_the_jaccard_of_growing_sets(seed, classes):
    """By its definition: errors from worst to least, each weighed with how much the Jaccard loss grows by it."""
    logits, target = random_case(seed, images=2, classes=classes, side=3)
    shares = logits.detach().softmax(dim=1).double().numpy()
    images = []
    for image in range(2):
        labels = target[image].numpy()
        known = [tuple(pixel) for pixel in np.argwhere(labels != 255)]
        lost = []
        for index in sorted({int(labels[pixel]) for pixel in known}):
            truth = {pixel for pixel in known if labels[pixel] == index}
            errors = {pixel: abs((pixel in truth) - shares[(image, index, *pixel)]) for pixel in known}
            wrong, before, total = set(), 0.0, 0.0
            for pixel in sorted(known, key=lambda pixel: -errors[pixel]):
                wrong.add(pixel)
                jaccard = 1 - len(truth - wrong) / len(truth | wrong)
                total += errors[pixel] * (jaccard - before)
                before = jaccard
            lost.append(total)
        if lost:
            images.append(np.mean(lost))
    assert float(Lovasz()(logits.detach(), target)) == pytest.approx(np.mean(images) if images else 0, rel=1e-4)


def test_focal_without_gamma_is_cross_entropy():
    logits, target = random_case(9)
    for weights in (None, [0.5, 1.0, 3.0]):
        torch.testing.assert_close(Focal(0.0, weights)(logits, target), CrossEntropy(weights)(logits, target))


def test_the_ccd_loss_and_its_slope():
    """CE(y, p) times the weight of the true class, mean over pixels; the slope against finite differences."""
    weights = [0.513, 0.838, 0.982, 1.666]
    logits, target = random_case(11, classes=4, unlabelled=0)
    p = logits.detach().softmax(dim=1).double()
    each = -torch.log(p.gather(1, target.unsqueeze(1))).squeeze(1) * torch.tensor(weights, dtype=torch.float64)[target]
    loss = build_loss(LossSettings(mean_over="pixels"), weights)
    assert float(loss(logits.detach(), target)) == pytest.approx(float(each.mean()), rel=1e-6)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.detach().double().requires_grad_())


@pytest.mark.parametrize("name", ["cross_entropy", "focal"])
def test_a_weight_of_positives_scales_them_and_leaves_negatives_their_loss(name):
    """A sparse binary mask; where positives alone had a loss, predicting them everywhere would cost nothing."""
    target = torch.zeros(1, 8, 8, dtype=torch.uint8)
    target[0, 2, 3] = 1
    slopes = []
    for weight in (1.0, 8.0):
        logits = torch.zeros(1, 2, 8, 8, requires_grad=True)
        build_loss(LossSettings(**{name: 1}, mean_over="pixels"), [1.0, weight])(logits, target).backward()
        slopes.append(logits.grad[:, 1])
    assert (slopes[0][target == 0] > 0).all()
    torch.testing.assert_close(slopes[1][target == 0], slopes[0][target == 0])
    torch.testing.assert_close(slopes[1][target == 1], 8 * slopes[0][target == 1])


def test_label_smoothing_is_torchs_and_wrong_sums_are_refused():
    logits, target = random_case(13)
    expected = F.cross_entropy(logits, target, ignore_index=255, label_smoothing=0.2)
    torch.testing.assert_close(CrossEntropy(label_smoothing=0.2)(logits, target), expected)
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        LossSettings(dice=-1)
