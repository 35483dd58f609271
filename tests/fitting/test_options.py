"""What a fit can be told: every option resumes to the same weights, and does what it says."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
import zarr
from torch import nn

from microseg_ray.errors import SettingsError
from microseg_ray.fitting import setup as fit_setup
from microseg_ray.fitting.batches import Preparation, Tiles, prepared
from microseg_ray.fitting.sampling import BatchOrder, epoch_order
from microseg_ray.fitting.setup import compiled, fresh, loss_of, optimizer_of
from microseg_ray.fitting.stepping import StepOptions, Stepper
from microseg_ray.fitting.synced_norm import freeze_norms
from microseg_ray.fitting.train import StopFit
from microseg_ray.fitting.workers import Workers
from microseg_ray.models.card import read_card
from microseg_ray.models.checkpoint import load_checkpoint
from microseg_ray.on_ray.fits import train
from microseg_ray.on_ray.rows import tile
from microseg_ray.settings import SamplingSettings, TileSettings, TrainSettings
from microseg_ray.tiles.store import TileStore

MODEL = {"name": "unet", "width": 3, "depth": 1}
EVERYTHING = {
    "loss": {"cross_entropy": 1, "dice": 1},
    "class_weights": "inverse",
    "sampling": {"kind": "class_area"},
    "augment": {"rotate": 180, "scale": (0.8, 1.3), "elastic": 2, "gamma": (0.8, 1.2), "noise": 0.05, "dropout": 0.1},
    "crop": 16,
    "ema": 0.9,
    "clip": 1.0,
    "accumulate": 2,
    "keep": 2,
    "select": "loss",
    "model": {**MODEL, "dropout": 0.2},
    "optimizer": {
        "name": "adam",
        "learning_rate": 3e-2,
        "schedule": "plateau",
        "warmup": 0,
        "plateau": {"patience": 1, "factor": 0.5, "restore_best": True, "min_delta": 0.3},
    },
}


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tiles(pairs, tmp_path_factory):
    output = tmp_path_factory.mktemp("options") / "tiles"
    chosen = {"images": f"{pairs}/images", "masks": f"{pairs}/masks", "classes": ["matrix", "grain", "pore"]}
    tile(
        TileSettings(
            **chosen, output=str(output), tile=32, overlap=8, workers=0, group=r"^(\d+)_", splits={"val": ["1"]}
        )
    )
    return output


def settings(tiles, output, **options) -> TrainSettings:
    chosen = {"tiles": str(tiles), "output": str(output), "epochs": 4, "batch": 8, "workers": 0, "threads": 1}
    chosen |= {"model": MODEL, "steps_per_epoch": 4, "optimizer": {"learning_rate": 1e-2}}
    return TrainSettings(**{**chosen, **options})


def without_times(history):
    return [{key: value for key, value in row.items() if key not in {"seconds", "data_wait"}} for row in history]


def same_weights(one, other) -> bool:
    first, second = (load_checkpoint(folder)[0].state_dict() for folder in (one, other))
    return all(torch.equal(first[key], second[key]) for key in first | second)


def stop_after(epoch):
    def report(progress):
        if progress.last is not None and progress.last["epoch"] == epoch:
            raise StopFit

    return report


def test_everything_at_once_resumes_bit_for_bit(tiles, tmp_path):
    """Plateau, restored best, averages, dropout, crops, elastic fields, sampling by class, parts of batches."""
    whole = train(settings(tiles, tmp_path / "whole", **EVERYTHING))
    assert whole.stopped == ""
    half = train(settings(tiles, tmp_path / "halves", **EVERYTHING), stop_after(2))
    assert (half.stopped, len(half.history)) == ("stopped from outside", 2)
    resumed = train(settings(tiles, tmp_path / "halves", **EVERYTHING))
    assert without_times(resumed.history) == without_times(whole.history)
    assert same_weights(resumed.last, whole.last)
    assert same_weights(resumed.best, whole.best)
    rates = [float(row["learning_rate"]) for row in whole.history]
    assert rates[-1] < rates[0], "the plateau lowered the rate, so its state was needed"
    losses = [float(row["val_loss"]) for row in whole.history]
    best_two = sorted(np.argsort(losses, kind="stable")[:2] + 1)
    assert sorted(path.name for path in (tmp_path / "whole/epochs").iterdir()) == [f"{n:04d}" for n in best_two]
    card = read_card(whole.best)
    assert card.metrics["epoch"] == 1 + losses.index(min(losses))
    assert card.metrics["selected_by"] == "validation loss"


def test_the_averaged_weights_are_those_that_are_judged_and_kept(tiles, tmp_path):
    result = train(settings(tiles, tmp_path / "fit", epochs=2, ema=0.99, precision="fp32", channels_last=False))
    state = torch.load(tmp_path / "fit/state.pt", weights_only=True)
    saved = load_checkpoint(result.last)[0]
    for name, value in saved.state_dict().items():
        assert torch.equal(value, state["averaged"]["model"][name])
    assert any(not torch.equal(value, state["model"][name]) for name, value in saved.state_dict().items())
    store = TileStore.open(tiles)
    images, masks, _ = store.read(store.rows("val"))
    with torch.inference_mode():
        logits = saved(torch.from_numpy(images).float() / 255)
    value = nn.functional.cross_entropy(logits, torch.from_numpy(masks).long(), ignore_index=255)
    assert float(result.history[-1]["val_loss"]) == pytest.approx(float(value), rel=1e-4)
    known = masks != 255
    assert float(result.history[-1]["pixel_accuracy"]) == pytest.approx(
        (logits.argmax(1).numpy() == masks)[known].mean()
    )


def test_a_fit_goes_on_from_another_one_with_other_options(tiles, tmp_path):
    """As population-based training does: weights, moments and epoch from there, the rate from here."""
    first = train(settings(tiles, tmp_path / "first"), stop_after(2))
    chosen = settings(
        tiles,
        tmp_path / "second",
        init_from=str(tmp_path / "first"),
        optimizer={"learning_rate": 5e-3, "schedule": "constant"},
    )
    second = train(chosen)
    assert [row["epoch"] for row in second.history] == ["1", "2", "3", "4"]
    assert without_times(second.history[:2]) == without_times(first.history)
    assert [float(row["learning_rate"]) for row in second.history[2:]] == [5e-3, 5e-3]
    unchanged = train(settings(tiles, tmp_path / "third", init_from=str(tmp_path / "first")))
    whole = train(settings(tiles, tmp_path / "whole"))
    assert same_weights(unchanged.last, whole.last)
    for wrong, message in (("nowhere", "holds no fit"), ("first", "same model and optimizer")):
        with pytest.raises(SettingsError, match=f"init_from.*{message}"):
            train(settings(tiles, tmp_path / "wrong", init_from=str(tmp_path / wrong), model={**MODEL, "width": 5}))


def test_an_early_stop_is_final(tiles, tmp_path):
    options = {"early_stopping": {"patience": 1, "min_delta": 5.0}, "select": "iou_pore"}
    result = train(settings(tiles, tmp_path / "fit", **options))
    assert len(result.history) == 2
    assert result.stopped == "no better score in 1 epochs (early_stopping)"
    again = train(settings(tiles, tmp_path / "fit", **options))
    assert again.history == result.history
    with pytest.raises(
        SettingsError, match=r"train\.select: 'iou_silt' is none of mean_iou, loss, pixel_accuracy, iou_m"
    ):
        train(settings(tiles, tmp_path / "fit", select="iou_silt"))


ORIGINALS = [
    {"name": "adam", "learning_rate": 1e-2, "betas": (0.9, 0.999), "schedule": "constant"},
    {"name": "rmsprop", "learning_rate": 1e-3, "rho": 0.9, "momentum": 0, "eps": 1e-7},
    {"name": "adadelta", "learning_rate": 1.0, "rho": 0.95, "eps": 1e-7},
    {"name": "sgd", "learning_rate": 5e-2, "schedule": "poly", "nesterov": False},
]


@pytest.mark.parametrize("optimizer", ORIGINALS, ids=lambda item: item["name"])
def test_every_optimizer_learns(tiles, optimizer):
    """Steps on one batch, and norms and biases without decay."""
    chosen = settings(tiles, "unused", optimizer={**optimizer, "weight_decay": 0.01}, precision="fp32")
    store = TileStore.open(tiles)
    state = fresh(chosen, store, Workers())
    for group, decay in zip(state.optimizer.param_groups, (0.01, 0.0), strict=True):
        assert group["weight_decay"] == decay
        assert all((value.ndim > 1) == (decay > 0) for value in group["params"])
    losses = steps(chosen, store, state, 30)
    assert losses[-1] < 0.9 * losses[0]


def stepper_of(chosen, store, state) -> Stepper:
    loss = loss_of(chosen.loss, chosen.class_weights, store)
    options = StepOptions(chosen.precision, chosen.accumulate, chosen.clip)
    return Stepper(state, state.model, loss, options, Workers())


def preparation(chosen) -> Preparation:
    return Preparation(chosen.seed, chosen.augmentation, chosen.crop, chosen.channels_last)


def steps(chosen, store, state, count, same=True):
    data = Tiles(store, store.rows("train"))
    stepper = stepper_of(chosen, store, state)
    losses: list[float] = []
    kept = None
    for batch in epoch_order(BatchOrder(chosen.batch, chosen.seed, count), len(data.rows), 0):
        images, masks = prepared(data, batch, preparation(chosen), 0, "cpu")
        if same and kept is not None:
            images, masks = kept
        kept = images, masks
        stepper.start(chosen.optimizer.learning_rate)
        value, _ = stepper.part(images, masks, last=True)
        stepper.finish()
        losses.append(float(value))
    return losses


def test_frozen_batch_norms_keep_everything_over_five_steps(tiles):
    chosen = settings(tiles, "unused", freeze_batch_norm=True)
    store = TileStore.open(tiles)
    state = fresh(chosen, store, Workers())
    state.model.train()
    freeze_norms(state.model)
    norms = [module for module in state.model.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [{name: value.clone() for name, value in norm.state_dict().items()} for norm in norms]
    weights = state.model.head.weight.detach().clone()
    steps(chosen, store, state, 5, same=False)
    assert norms
    for norm, old in zip(norms, before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in norm.state_dict().items())
    assert not torch.equal(state.model.head.weight, weights)


def test_clipping_and_half_precision(tiles):
    """A step of plain SGD is no longer than rate times clip; fp16 scales its loss and still learns."""
    store = TileStore.open(tiles)
    sgd = {"name": "sgd", "learning_rate": 1.0, "momentum": 0.0, "weight_decay": 0.0}
    chosen = settings(tiles, "unused", clip=1e-3, optimizer=sgd, precision="fp32")
    state = fresh(chosen, store, Workers())
    before = [value.detach().clone() for value in state.model.parameters()]
    steps(chosen, store, state, 1)
    after = [value.detach() for value in state.model.parameters()]
    moved = torch.cat([(a - b).flatten() for a, b in zip(before, after, strict=True)]).norm()
    assert float(moved) == pytest.approx(1e-3, rel=1e-3)
    half = settings(tiles, "unused", precision="fp16")
    state = fresh(half, store, Workers())
    assert state.scaler.is_enabled()
    losses = steps(half, store, state, 12)
    assert losses[-1] < losses[0]
    again = fresh(half, store, Workers())
    again.restore(state.document())
    assert again.scaler.state_dict() == state.scaler.state_dict()


def test_parts_of_a_batch_are_its_mean(tiles):
    """Without norms the gradient of two halves with as many labelled pixels is that of the whole."""
    store = TileStore.open(tiles)
    plain = {"model": {**MODEL, "norm": "none"}, "precision": "fp32"}
    images, masks = torch.rand(8, 1, 32, 32), torch.randint(0, 3, (8, 32, 32), dtype=torch.uint8)
    slopes = []
    for parts in (1, 2, 4):
        chosen = settings(tiles, "unused", accumulate=parts, **plain)
        state = fresh(chosen, store, Workers())
        stepper = stepper_of(chosen, store, state)
        stepper.start(0.0)
        for part in range(parts):
            stepper.part(images[part::parts], masks[part::parts], last=part == parts - 1)
        slopes.append(torch.cat([value.grad.flatten() for value in state.model.parameters()]))
    torch.testing.assert_close(slopes[0], slopes[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(slopes[0], slopes[2], rtol=1e-4, atol=1e-6)


def test_held_or_streamed_makes_no_difference(tiles):
    store = TileStore.open(tiles)
    rows = store.rows("train")
    held, streamed = Tiles(store, rows), Tiles(store, rows, held_bytes=0)
    assert (held.held, streamed.held) == (True, False)
    chosen = settings(tiles, "unused", **EVERYTHING)
    order = BatchOrder(chosen.batch, chosen.seed, sampling=chosen.sampling)
    batch = epoch_order(order, len(rows), 1, store.tile_counts("train"))[0]
    how = preparation(chosen)
    for one, other in zip(prepared(held, batch, how, 1, "cpu"), prepared(streamed, batch, how, 1, "cpu"), strict=True):
        assert torch.equal(one, other)
        assert one.shape[-2:] == (16, 16)


@pytest.mark.parametrize("kind", ["uniform", "class_area"])
def test_reading_by_shards_leaves_the_sampling_as_it_is(tiles, kind):
    """Every batch of two epochs holds the tiles that the order names, in that order, however they lie in the shards."""
    store = TileStore.open(tiles)
    rows, counts = store.rows("train"), store.tile_counts("train")
    whole = zarr.open_group(tiles / "tiles.zarr", mode="r")
    images, masks = (np.asarray(whole[name][:]) for name in ("images", "masks"))
    order = BatchOrder(5, 3, steps_per_epoch=12, sampling=SamplingSettings(kind=kind))
    for data in (Tiles(store, rows), Tiles(store, rows, held_bytes=0)):
        for epoch in (0, 1):
            for batch in epoch_order(order, len(rows), epoch, counts):
                read = data.raw(batch.places)
                assert np.array_equal(read[0], images[rows[batch.places]])
                assert np.array_equal(read[1], masks[rows[batch.places]])


def test_crops_must_suit_tiles_and_model(tiles, tmp_path):
    for crop in (64, 17):
        with pytest.raises(SettingsError, match=rf"train\.crop: {crop} px must be a multiple of the model's stride 2"):
            train(settings(tiles, tmp_path / "fit", crop=crop))


def test_compile_falls_back_with_a_reason(monkeypatch, caplog):
    model = nn.Conv2d(1, 1, 1)

    def broken(_function):
        raise RuntimeError("no working C++ compiler was found\nand more")

    monkeypatch.setattr(fit_setup.torch, "compile", broken)
    with caplog.at_level(logging.WARNING):
        assert compiled(model, "cpu") is model
    assert "torch.compile does not work here (no working C++ compiler was found); training goes on" in caplog.text


def test_optimizer_without_momentum_is_plain():
    chosen = TrainSettings(tiles="t", output="o", optimizer={"name": "sgd", "momentum": 0.0})
    assert optimizer_of(nn.Conv2d(1, 1, 1), chosen.optimizer).param_groups[0]["nesterov"] is False


def test_mlflow_gets_parameters_metrics_and_the_checkpoint(tiles, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="needs the extra mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "store").as_uri()
    chosen = settings(tiles, tmp_path / "fit", epochs=2, mlflow={"uri": uri, "experiment": "shale"})
    train(chosen, stop_after(1))
    result = train(chosen)
    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("shale").experiment_id])
    assert len(runs) == 1, "a resumed fit goes on in its run"
    run = runs[0]
    assert run.info.status == "FINISHED"
    assert run.data.params["optimizer.learning_rate"] == "0.01"
    assert run.data.tags["checkpoint"] == str(tmp_path / "fit/best")
    logged = {item.step: item.value for item in client.get_metric_history(run.info.run_id, "val_loss")}
    assert logged == {int(row["epoch"]): pytest.approx(float(row["val_loss"])) for row in result.history}
    assert "iou_pore" in run.data.metrics


def test_start_weights_are_reported(tiles, tmp_path):
    first = train(settings(tiles, tmp_path / "first", epochs=1))
    chosen = settings(tiles, tmp_path / "second", epochs=1, model={**MODEL, "weights": str(first.best)})
    second = train(chosen)
    count = len(load_checkpoint(first.best)[0].state_dict())
    assert f"weights: {count} of" in second.weights
    assert float(second.history[0]["loss"]) < float(first.history[0]["loss"])
    assert train(chosen).history == second.history
