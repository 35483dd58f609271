"""Several workers fit what one does, batch norms included: two real processes that talk over gloo."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest
import torch
from torch import nn

from microseg_ray.fitting.loop import fit
from microseg_ray.fitting.synced_norm import SyncedBatchNorm2d, synchronise
from microseg_ray.fitting.workers import Workers
from microseg_ray.on_ray.rows import tile
from microseg_ray.settings import TileSettings, TrainSettings

LOSSES = [
    {"loss": {"cross_entropy": 1, "dice": 1, "lovasz": 0.5}, "class_weights": "inverse"},
    {"loss": {"tversky": 1}, "optimizer": {"name": "sgd", "learning_rate": 0.05}, "accumulate": 2, "ema": 0.9},
]


def chosen(tiles, output, **options) -> TrainSettings:
    settings = {"tiles": str(tiles), "output": str(output), "epochs": 2, "batch": 8, "steps_per_epoch": 5, "threads": 1}
    settings |= {"model": {"name": "unet", "width": 4, "depth": 2}, "precision": "fp32", "workers": 2}
    settings |= {"optimizer": {"learning_rate": 5e-3}}
    return TrainSettings(**{**settings, **options})


def work(rank, folder, tiles):
    """One of two processes: the fits, and a batch norm by itself."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = []
    for number, options in enumerate(LOSSES):
        rows = []
        fit(
            chosen(tiles, f"{folder}/two{number}", **options), Workers(rank, 2), lambda row, rows=rows: rows.append(row)
        )
        found.append([(row.loss, row.val_loss) for row in rows])
    norm, images = norm_and_images()
    # Shares of unequal size, and far from zero.
    mine = images[:1] if rank == 0 else images[1:]
    mine.requires_grad_()
    (
        norm(mine) * torch.linspace(0, 1, images.numel()).view_as(images)[: 1 if rank == 0 else None][-len(mine) :]
    ).sum().backward()
    torch.save(
        {"curves": found, "grad": mine.grad, "state": norm.state_dict(), "weight": norm.weight.grad},
        f"{folder}/{rank}.pt",
    )
    torch.distributed.destroy_process_group()


def norm_and_images():
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.BatchNorm2d(3))
    synchronise(model)
    return model[0].train(), 10 + torch.rand(4, 3, 5, 5, generator=generator)


@pytest.fixture(scope="module")
def tiles(pairs, tmp_path_factory):
    output = tmp_path_factory.mktemp("distributed") / "tiles"
    options = {"images": f"{pairs}/images", "masks": f"{pairs}/masks", "classes": ["matrix", "grain", "pore"]}
    tile(
        TileSettings(
            **options, output=str(output), tile=32, overlap=8, workers=0, group=r"^(\d+)_", splits={"val": ["1"]}
        )
    )
    return output


@pytest.fixture(scope="module")
def both(tiles, tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(rank, str(folder), str(tiles))) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    return [torch.load(Path(folder) / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("number", range(len(LOSSES)))
def test_two_workers_give_the_loss_curve_of_one(tiles, both, tmp_path, number):
    rows = []
    threads = torch.get_num_threads()
    fit(chosen(tiles, tmp_path / "one", **LOSSES[number]), Workers(), rows.append)
    torch.set_num_threads(threads)
    for rank in range(2):
        for (loss, val_loss), row in zip(both[rank]["curves"][number], rows, strict=True):
            assert loss == pytest.approx(row.loss, abs=1e-3)
            assert val_loss == pytest.approx(row.val_loss, abs=1e-3)


def test_a_synced_norm_is_that_of_the_whole_batch(both):
    norm, images = norm_and_images()
    assert type(norm) is SyncedBatchNorm2d
    plain = nn.BatchNorm2d(3).train()
    images.requires_grad_()
    ramp = torch.linspace(0, 1, images.numel()).view_as(images)
    (plain(images) * ramp).sum().backward()
    found = torch.cat([part["grad"] for part in both])
    torch.testing.assert_close(found, images.grad, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(sum(part["weight"] for part in both), plain.weight.grad, rtol=1e-3, atol=1e-3)
    for part in both:
        torch.testing.assert_close(part["state"], plain.state_dict(), rtol=1e-4, atol=1e-4)
        assert list(part["state"]) == list(plain.state_dict())
