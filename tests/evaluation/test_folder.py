"""The evaluation folder: probabilities, calibration that never sees what is judged, pictures that can be read back."""

from __future__ import annotations

import csv
import json
import struct

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, f1_score

from microseg_ray.errors import SettingsError
from microseg_ray.evaluation.job import evaluate
from microseg_ray.evaluation.metrics.scores import EDGES
from microseg_ray.evaluation.sections import ShapeRule, class_sections, with_shape
from microseg_ray.figures.pictures import class_palette
from microseg_ray.models.card import read_card, read_card_and_digest
from microseg_ray.models.predictor import load_predictor
from microseg_ray.on_ray.actors import segment
from microseg_ray.settings import ClassSpec, EvaluateSettings, SegmentSettings
from microseg_ray.sources import read_mask
from tests.tints import decode_tint

CLASSES = ["matrix", "grain", "pore"]
DATA = {"group": r"^(\d+)_", "splits": {"test": ["2"], "val": ["1"]}}


def settings(**options) -> EvaluateSettings:
    paths = {"masks", "images", "predictions", "checkpoint", "output"}
    chosen = {key: str(value) if key in paths else value for key, value in options.items()}
    return EvaluateSettings(**{"figures": False, "split": "test", "threads": 1, **DATA, **chosen})


@pytest.fixture(scope="module")
def judged(pairs, new_checkpoint, tmp_path_factory):
    """A checkpoint judged with everything on; metrics of a fit lie beside it."""
    root = tmp_path_factory.mktemp("judged")
    checkpoint = new_checkpoint(root / "model/best", seed=3)
    (root / "model/metrics.csv").write_text("epoch,loss,val_mean_iou,seconds,best\n1,0.9,0.2,3,True\n2,0.5,,3,False\n")
    chosen = settings(
        images=pairs / "images",
        masks=pairs / "masks",
        checkpoint=checkpoint,
        output=root / "out",
        figures=True,
        pictures=2,
    )
    return chosen, evaluate(chosen), root


def split_of(pairs, checkpoint, number):
    """Labels and probabilities (K, n) of the labelled pixels of a group, by the model alone."""
    predictor = load_predictor(checkpoint, precision="bf16", threads=1, runtime="torch")
    labels, scores = [], []
    for path in sorted((pairs / "images").glob(f"{number}_*.png")):
        truth = read_mask(pairs / "masks" / path.name)
        found = predictor.scores(np.asarray(Image.open(path))[None, None], (0, 255))[0]
        labels.append(truth[truth != 255])
        scores.append(found[:, truth != 255])
    return np.concatenate(labels), np.concatenate(scores, axis=1)


def test_probabilities_are_the_models_and_figures_scikit_learns(pairs, judged):
    chosen, result, _ = judged
    truth, scores = split_of(pairs, chosen.checkpoint, 2)
    document = result.document()
    assert result.pooled.counts.sum() == len(truth)
    for index, name in enumerate(CLASSES):
        rounded = EDGES[np.searchsorted(EDGES, scores[index].astype(np.float64))]
        expected = average_precision_score(truth == index, rounded)
        assert document["scores"]["classes"][name]["aupr"] == pytest.approx(expected, abs=1e-12)
    confidence, right = scores.max(axis=0).astype(np.float64), scores.argmax(axis=0) == truth
    bins = np.ceil(confidence * 15)
    error = sum(abs(right[bins == k].sum() - confidence[bins == k].sum()) for k in range(1, 16)) / len(truth)
    assert document["scores"]["expected_calibration_error"] == pytest.approx(error, abs=1e-6)


def test_thresholds_are_the_best_of_the_other_split_and_are_reported_on_this_one(pairs, judged):
    chosen, result, root = judged
    document = result.document()
    there, scores_there = split_of(pairs, chosen.checkpoint, 1)
    here, scores_here = split_of(pairs, chosen.checkpoint, 2)
    for index, name in enumerate(CLASSES):
        found = document["calibration"]["thresholds"][name]["f1"]
        grid = np.arange(4096) / 4096
        values = [f1_score(there == index, scores_there[index] > threshold) for threshold in grid[::128]]
        assert found["f1"] >= max(values) - 1e-12
        assert found["f1"] == pytest.approx(
            f1_score(there == index, scores_there[index] > found["threshold"]), abs=1e-12
        )
        scored = document["scores"]["classes"][name]["chosen"]["f1"]
        assert scored["threshold"] == found["threshold"]
        assert scored["f1"] == pytest.approx(
            f1_score(here == index, scores_here[index] > found["threshold"]), abs=1e-12
        )
    with (root / "out/thresholds.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [(row["class"], row["criterion"]) for row in rows[:2]] == [("matrix", "f1"), ("matrix", "f2")]
    assert {row["chosen_on"] for row in rows} == {"val"}
    kept = json.loads((root / "out/temperature.json").read_text())
    assert kept == document["calibration"]
    assert kept["nll_after"] <= kept["nll_before"]


def test_what_is_judged_never_decides_what_is_chosen(new_pairs, judged, tmp_path):
    """Other truth on the judged split: other figures, the same thresholds and temperature."""
    chosen, result, _ = judged
    new_pairs(tmp_path)
    for path in (tmp_path / "masks").glob("2_*.png"):
        mask = read_mask(path)
        Image.fromarray(np.where(mask == 255, 255, (mask + 1) % 3).astype(np.uint8)).save(path)
    other = evaluate(
        settings(
            images=tmp_path / "images", masks=tmp_path / "masks", checkpoint=chosen.checkpoint, output=tmp_path / "o"
        )
    )
    assert other.pooled != result.pooled
    assert other.document()["calibration"] == result.document()["calibration"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"split": None}, "every micrograph is judged"),
        ({"split": "val"}, "split val is the one that is judged"),
        ({"calibrate_split": "none of these"}, "no micrograph is in split"),
        ({"calibrate_split": None}, "calibrate_split is none"),
        ({"probabilities": False}, "no probabilities"),
    ],
)
def test_why_nothing_was_chosen_is_told(pairs, judged, tmp_path, options, reason):
    checkpoint = judged[0].checkpoint
    common = {"images": pairs / "images", "masks": pairs / "masks", "checkpoint": checkpoint, "output": tmp_path}
    document = evaluate(settings(**common, **options)).document()
    assert document["calibration"]["split"] is None
    assert reason in document["calibration"]["reason"]
    assert not (tmp_path / "temperature.json").exists()
    with pytest.raises(SettingsError, match="no calibration"):
        evaluate(settings(**common, **options, write_back=True))


def test_a_run_with_probabilities_says_what_its_checkpoint_does(pairs, judged, tmp_path):
    """Stored in half precision, so thresholds and areas under curves are near and not equal; the masks are equal."""
    chosen, result, _ = judged
    run = segment(
        SegmentSettings(
            archive=f"{pairs}/images",
            checkpoint=chosen.checkpoint,
            output=f"{tmp_path}/run",
            workers=0,
            threads=1,
            extra="probabilities",
        )
    ).run
    by_run = evaluate(settings(masks=pairs / "masks", predictions=run.folder, output=tmp_path / "o"))
    assert by_run.pooled.counts.sum() == result.pooled.counts.sum()
    theirs, ours = by_run.document()["scores"], result.document()["scores"]
    for name in CLASSES:
        assert theirs["classes"][name]["aupr"] == pytest.approx(ours["classes"][name]["aupr"], abs=2e-3)
    assert by_run.calibration.temperature.value == pytest.approx(result.calibration.temperature.value, rel=1e-2)


def test_test_time_symmetries_are_those_of_segment(pairs, judged, tmp_path):
    chosen, plain, _ = judged
    run = segment(
        SegmentSettings(
            archive=f"{pairs}/images",
            checkpoint=chosen.checkpoint,
            output=f"{tmp_path}/run",
            workers=0,
            threads=1,
            tta=True,
        )
    ).run
    by_run = evaluate(settings(masks=pairs / "masks", predictions=run.folder, output=tmp_path / "a"))
    common = {"images": pairs / "images", "masks": pairs / "masks", "checkpoint": chosen.checkpoint}
    by_model = evaluate(settings(**common, output=tmp_path / "b", tta=True))
    assert by_model.pooled == by_run.pooled
    assert by_model.pooled != plain.pooled
    assert by_model.total.scores is not None
    assert by_run.total.scores is None


def test_overlays_lie_on_the_pixels_and_give_the_masks_back(pairs, judged):
    _, result, root = judged
    palette = class_palette(result.specs)
    names = sorted(path.name.removesuffix(".truth.png") for path in (root / "out/overlays").glob("*.truth.png"))
    assert len(names) == 2
    for name in names:
        image = np.asarray(Image.open(pairs / "images" / name))
        gray = np.repeat(image[..., None], 3, axis=2)
        read = {
            kind: decode_tint(np.asarray(Image.open(root / f"out/overlays/{name}.{kind}.png")), gray, palette)
            for kind in ("truth", "prediction", "intersection")
        }
        truth = read_mask(pairs / "masks" / name)
        np.testing.assert_array_equal(read["truth"], truth)
        known = truth != 255
        counts = [[int(((truth == t) & (read["prediction"] == p))[known].sum()) for p in range(3)] for t in range(3)]
        assert counts == result.per_image[name].counts.tolist()
        np.testing.assert_array_equal(read["intersection"], np.where(truth == read["prediction"], truth, 255))


def test_the_folder_is_complete(judged):
    _, result, root = judged
    found = {path.relative_to(root / "out").as_posix() for path in (root / "out").rglob("*") if path.is_file()}
    plots = {"confusion_matrix.png", "reliability.png", "precision_recall.png", "curves.png"}
    tables = {"per_image.csv", "classes.csv", "areas.csv", "area_errors.csv", "confusion_matrix.csv", "reliability.csv"}
    assert plots | tables | {"metrics.json", "failures.csv", "precision_recall.csv", "judged_model.json"} <= found
    panels = sorted((root / "out/panels").iterdir())
    assert len(panels) == 2
    for path in [*panels, *(root / "out" / name for name in plots)]:
        with Image.open(path) as image:
            assert len(image.convert("L").getcolors(256) or []) > 3, f"{path} is blank"
    with (root / "out/areas.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert len(rows) == 9
    for name in result.per_image:
        for column in ("true_percent", "predicted_percent"):
            shown = [row[column] for row in rows if row["micrograph"] == name]
            assert {len(text.partition(".")[2]) for text in shown} == {4}
            assert sum(float(text) for text in shown) == pytest.approx(100, abs=1e-9)
    with (root / "out/confusion_matrix.csv").open(newline="") as handle:
        matrix = [[int(row[f"predicted_{name}"]) for name in CLASSES] for row in csv.DictReader(handle)]
    assert matrix == result.pooled.counts.tolist()
    with (root / "out/confusion_matrix_normalised.csv").open(newline="") as handle:
        shares = [sum(float(row[f"predicted_{name}"]) for name in CLASSES) for row in csv.DictReader(handle)]
    assert shares == pytest.approx([1, 1, 1])


def events_of(path):
    from tensorboardX.proto.event_pb2 import Event

    content, place, found = path.read_bytes(), 0, []
    while place < len(content):
        (length,) = struct.unpack("<Q", content[place : place + 8])
        found.append(Event.FromString(content[place + 12 : place + 12 + length]))
        place += 16 + length
    return found


def test_tensorboard_events(judged):
    _, result, root = judged
    events = events_of(root / "out/events/events.out.tfevents.0.evaluation")
    assert events[0].file_version == "brain.Event:2"
    values = {value.tag: value for event in events[1:] for value in event.summary.value}
    assert values["pooled/mean_iou"].simple_value == pytest.approx(result.pooled.mean_iou, abs=1e-6)
    panels = [tag for tag in values if tag.startswith("panels/")]
    assert len(panels) == 2
    assert values[panels[0]].image.encoded_image_string.startswith(b"\x89PNG")
    assert {"confusion_matrix", "reliability", "curves"} <= set(values)


def test_the_same_bytes_again_and_nothing_of_an_older_evaluation(judged, tree_of, pairs, tmp_path):
    chosen, _, root = judged
    first = tree_of(root / "out")
    again = chosen.model_copy(update={"output": str(tmp_path)})
    evaluate(again)
    assert tree_of(tmp_path) == first
    evaluate(settings(masks=pairs / "masks", predictions=pairs / "masks", output=tmp_path, classes=CLASSES))
    names = {path.name for path in tmp_path.iterdir()}
    assert not {"overlays", "panels", "events", "reliability.csv", "temperature.json", "thresholds.csv"} & names


def test_write_back_changes_the_card_alone(pairs, new_checkpoint, tmp_path):
    checkpoint = new_checkpoint(tmp_path / "best", seed=3)
    card, digest = read_card_and_digest(checkpoint)
    result = evaluate(
        settings(
            images=pairs / "images",
            masks=pairs / "masks",
            checkpoint=checkpoint,
            output=tmp_path / "o",
            write_back=True,
        )
    )
    written, same = read_card_and_digest(checkpoint)
    assert same == digest
    assert written.metrics["calibration"]["temperature"] == result.calibration.temperature.value
    assert written.model_copy(update={"metrics": card.metrics}) == card
    load_predictor(checkpoint)
    assert read_card(checkpoint).metrics["calibration"]["split"] == "val"


def test_sections_by_brute_force_and_without_regard_to_case(pairs, microseg, tmp_path):
    ran = microseg(
        *("evaluate", "--masks", pairs / "masks", "--predictions", pairs / "masks", "--output", tmp_path),
        *("--classes", json.dumps(CLASSES), "--sections", 32, "--find", "PORE", "--figures", "false"),
    )
    assert ran.code == 0, ran.err
    with (tmp_path / "sections.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    expected = []
    for path in sorted((pairs / "masks").iterdir()):
        mask = read_mask(path)
        for y0 in range(0, 96, 32):
            for x0 in range(0, 80, 32):
                part = mask[y0 : y0 + 32, x0 : x0 + 32]
                if (part == 2).any():
                    expected.append((path.name, str(y0), str(x0), str((part == 2).sum()), str(part.shape[1])))
    assert [tuple(row[key] for key in ("micrograph", "y0", "x0", "pixel_count", "width")) for row in rows] == expected
    assert {row["class_name"] for row in rows} == {"pore"}
    wrong = microseg(
        *("evaluate", "--masks", pairs / "masks", "--predictions", pairs / "masks", "--output", tmp_path),
        *("--classes", json.dumps(CLASSES), "--sections", 32, "--find", "hole"),
    )
    assert wrong.code == 2
    assert "there are matrix, grain, pore" in wrong.err


def test_shape_rules():
    mask = np.zeros((6, 8), np.uint8)
    mask[0] = 1  # a line of 8
    mask[2:4, 2:4] = 1  # a square
    mask[5, 7] = 1  # a pixel
    assert (with_shape(mask, 1, ShapeRule(lines_only=True)) == 1).sum() == 9
    assert (with_shape(mask, 1, ShapeRule(max_pixels=4)) == 1).sum() == 5
    assert (with_shape(mask, 1, ShapeRule(max_pixels=4, lines_only=True)) == 1).sum() == 1
    assert with_shape(mask, 1, ShapeRule()) is mask
    specs = (ClassSpec(name="dark"), ClassSpec(name="hot pixel"))
    rows = class_sections(with_shape(mask, 1, ShapeRule(max_pixels=4, lines_only=True)), specs, 4, only=1)
    assert [(row.section, row.y0, row.x0, row.height, row.pixel_count) for row in rows] == [(3, 4, 4, 2, 1)]


def test_an_info_bar_is_not_judged(pairs, judged, tmp_path):
    chosen, _, _ = judged
    common = {"images": pairs / "images", "masks": pairs / "masks", "checkpoint": chosen.checkpoint}
    result = evaluate(settings(**common, output=tmp_path, source={"info_bar": 16}))
    for name, matrix in result.per_image.items():
        specimen = read_mask(pairs / "masks" / name)[:80]
        assert matrix.support.tolist() == [int((specimen == index).sum()) for index in range(3)]
    assert result.total.scores.histogram.counts.sum() == 3 * result.pooled.counts.sum()
