"""Metrics: equal to scikit-learn's, mergeable in any order, nan where undefined."""

import json
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sk

from microseg_ray.evaluation.metrics import ConfusionMatrix, classification_report, mean_of


def counted(target, prediction, classes):
    matrix = ConfusionMatrix.zeros(classes)
    matrix.update(np.asarray(target), np.asarray(prediction))
    return matrix


@st.composite
def pairs(draw):
    """Classes K, and masks of few pixels in which classes are often absent and pixels often not labelled."""
    classes = draw(st.integers(1, 6))
    pixels = draw(st.integers(1, 40))
    target = draw(arrays(np.uint8, pixels, elements=st.one_of(st.integers(0, classes - 1), st.just(255))))
    prediction = draw(arrays(np.uint8, pixels, elements=st.integers(0, classes - 1)))
    return classes, target, prediction


@pytest.mark.filterwarnings("ignore:A single label was found")
@settings(deadline=None, max_examples=100)
@given(pairs())
def test_equals_scikit_learn(case):
    classes, target, prediction = case
    matrix = counted(target, prediction, classes)
    labelled = target != 255
    truth, guess = target[labelled], prediction[labelled]
    assert matrix.support.sum() == labelled.sum()
    if not labelled.any():
        assert np.isnan(matrix.pixel_accuracy)
        assert np.isnan(matrix.mean_iou)
        return
    labels = list(range(classes))
    np.testing.assert_array_equal(matrix.counts, sk.confusion_matrix(truth, guess, labels=labels))
    assert matrix.pixel_accuracy == pytest.approx(sk.accuracy_score(truth, guess), abs=1e-12)
    precision, recall, f1, support = sk.precision_recall_fscore_support(
        truth, guess, labels=labels, zero_division=np.nan
    )
    np.testing.assert_allclose(matrix.precision, precision, rtol=0, atol=1e-12)
    np.testing.assert_allclose(matrix.recall, recall, rtol=0, atol=1e-12)
    np.testing.assert_allclose(matrix.f1, f1, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(matrix.support, support)
    present = sorted({*truth.tolist(), *guess.tolist()})
    iou = sk.jaccard_score(truth, guess, labels=present, average=None)
    np.testing.assert_allclose(matrix.iou[present], iou, rtol=0, atol=1e-12)
    assert np.isnan(np.delete(matrix.iou, present)).all()
    assert matrix.mean_iou == pytest.approx(iou.mean(), abs=1e-12)


@settings(deadline=None, max_examples=50)
@given(pairs(), st.integers(1, 5), st.randoms(use_true_random=False))
def test_merging_parts_in_any_order_gives_the_same(case, count, random):
    classes, target, prediction = case
    whole = counted(target, prediction, classes)
    cuts = sorted(random.choices(range(len(target) + 1), k=count))
    parts = [counted(t, p, classes) for t, p in zip(np.split(target, cuts), np.split(prediction, cuts), strict=True)]
    random.shuffle(parts)
    assert reduce(add, parts) == whole
    assert reduce(add, parts).counts.dtype == np.int64
    in_place = ConfusionMatrix.zeros(classes)
    for t, p in zip(np.split(target, cuts), np.split(prediction, cuts), strict=True):
        in_place.update(t, p)
    assert in_place == whole


@settings(deadline=None, max_examples=50)
@given(pairs())
def test_the_report_shows_scikit_learns_numbers(case):
    classes, target, prediction = case
    labelled = target != 255
    if not labelled.any():
        return
    names = [f"class {index}" for index in range(classes)]
    table = classification_report(counted(target, prediction, classes), names)
    cells = list(zip(*(column.cells for column in table.columns), strict=True))
    theirs = sk.classification_report(
        target[labelled],
        prediction[labelled],
        labels=list(range(classes)),
        target_names=names,
        output_dict=True,
        zero_division=np.nan,
    )

    def shown(value):
        return "-" if np.isnan(value) else f"{value:.4f}"

    rows = {row[0]: row[1:] for row in cells}
    ours_to_theirs = dict(zip(names, names, strict=True)) | {
        "macro average": "macro avg",
        "weighted average": "weighted avg",
    }
    for mine, other in ours_to_theirs.items():
        expected = [shown(theirs[other][key]) for key in ("precision", "recall", "f1-score")]
        assert list(rows[mine][:3]) == expected
        assert rows[mine][4] == str(int(theirs[other]["support"]))
    assert rows["accuracy"][2] == shown(sk.accuracy_score(target[labelled], prediction[labelled]))


def test_any_shape_and_integer_type():
    target, prediction = np.array([[0, 1], [2, 255]]), np.array([[0, 2], [2, 0]])
    expected = [[1, 0, 0], [0, 0, 1], [0, 0, 1]]
    for dtype in (np.uint8, np.int16, np.int64, np.uint64):
        assert counted(target.astype(dtype), prediction.astype(dtype).T.T, 3).counts.tolist() == expected
    assert counted(np.array([True, False]), np.array([True, True]), 2).counts.tolist() == [[0, 1], [0, 1]]
    assert counted(np.zeros((0, 4), np.uint8), np.zeros((0, 4), np.uint8), 2).counts.sum() == 0


def test_masks_larger_than_a_chunk():
    generator = np.random.default_rng(0)
    target, prediction = generator.integers(0, 4, (2, 1500, 1500), dtype=np.uint8)
    np.testing.assert_array_equal(
        counted(target, prediction, 4).counts, sk.confusion_matrix(target.ravel(), prediction.ravel())
    )


def test_values_that_are_no_class_are_named_and_nothing_is_added():
    matrix = ConfusionMatrix.zeros(3)
    for target, prediction, message in (
        ([0, 7, 7], [0, 0, 0], "target holds the value 7 in 2 pixels"),
        ([0, 1], [0, 3], "prediction holds the value 3 in 1 pixels"),
        ([0, 1], [0, 255], r"prediction holds the value 255 in 1 pixels \(not measured"),
        ([-1, 0], [0, 0], "target holds the value -1"),
        ([0, 0], [0, 300], "prediction holds the value 300"),
        ([0.5, 0], [0, 0], "target is float64"),
        ([[0, 0]], [0, 0], "do not match"),
    ):
        with pytest.raises(ValueError, match=message):
            matrix.update(np.asarray(target), np.asarray(prediction))
    assert matrix == ConfusionMatrix.zeros(3)


def test_unmeasured_predictions():
    matrix = ConfusionMatrix.zeros(2)
    matrix.update(np.array([255, 255]), np.array([255, 9]))  # not labelled, so nobody asks
    assert matrix.counts.sum() == 0
    matrix.update(np.array([0, 1, 1]), np.array([255, 1, 0]), unmeasured="ignore")
    assert matrix.counts.tolist() == [[0, 0], [1, 1]]


def test_undefined_is_nan_and_none():
    matrix = ConfusionMatrix(np.array([[2, 1, 0], [0, 0, 0], [0, 0, 0]]))
    np.testing.assert_array_equal(matrix.iou, [2 / 3, 0, np.nan])
    np.testing.assert_array_equal(matrix.precision, [1, 0, np.nan])
    np.testing.assert_array_equal(matrix.recall, [2 / 3, np.nan, np.nan])
    assert matrix.mean_iou == pytest.approx(1 / 3)
    metrics = matrix.as_metrics(["clay", "silt", "pore"])
    assert metrics["classes"]["pore"] == {"iou": None, "precision": None, "recall": None, "f1": None, "support": 0}
    assert metrics["pixel_accuracy"] == pytest.approx(2 / 3)
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    with pytest.raises(ValueError, match="2 class names for 3"):
        matrix.as_metrics(["clay", "silt"])


@settings(deadline=None, max_examples=30)
@given(st.lists(arrays(np.uint8, (2, 6), elements=st.integers(0, 2)), min_size=1, max_size=5))
def test_mean_of_images_is_the_nanmean_of_each_metric(images):
    matrices = [counted(target, prediction, 3) for target, prediction in images]
    names = ["a", "b", "c"]
    mean = mean_of([matrix.as_metrics(names) for matrix in matrices])
    assert mean["pixel_accuracy"] == pytest.approx(np.mean([m.pixel_accuracy for m in matrices]))
    for index, name in enumerate(names):
        for key in ("iou", "precision", "recall", "f1"):
            values = [getattr(m, key)[index] for m in matrices if not np.isnan(getattr(m, key)[index])]
            assert mean["classes"][name][key] == (pytest.approx(np.mean(values)) if values else None)
        assert mean["classes"][name]["support"] == sum(int(m.support[index]) for m in matrices)


def test_mean_of_nothing():
    assert mean_of([]) == {"pixel_accuracy": None, "mean_iou": None, "micro_iou": None, "classes": {}}


def test_matrices_that_are_none():
    for wrong in (np.zeros((2, 3), int), np.zeros(4, int), np.zeros((0, 0), int), np.zeros((256, 256), int)):
        with pytest.raises(ValueError, match=r"is \(K, K\)"):
            ConfusionMatrix(wrong)
    for wrong in (np.array([[-1]]), np.array([[0.5]])):
        with pytest.raises(ValueError, match="holds counts"):
            ConfusionMatrix(wrong)
    with pytest.raises(ValueError, match="cannot be added"):
        ConfusionMatrix.zeros(2) + ConfusionMatrix.zeros(3)
    with pytest.raises(TypeError):
        ConfusionMatrix.zeros(2) + 1
    with pytest.raises(TypeError):
        hash(ConfusionMatrix.zeros(2))
