"""`precision: auto`: settled once, bound to the fit, the same for all workers; and what a step waits for its tiles."""

from __future__ import annotations

import pytest
import torch

from microseg_ray.errors import SettingsError
from microseg_ray.fitting.precision import precision_of, settled
from microseg_ray.fitting.state import identity_of
from microseg_ray.fitting.train import train
from microseg_ray.models.card import read_card
from microseg_ray.models.runtimes import units
from microseg_ray.settings import TrainSettings
from microseg_ray.tiles.store import TileStore

FAST, PLAIN = {"avx512_f": True, "avx512_bf16": True}, {"avx512_f": True, "avx512_bf16": False, "amx_bf16": False}


def settings(tiles, output, **options) -> TrainSettings:
    chosen = {"tiles": str(tiles), "output": str(output), "epochs": 1, "batch": 4, "steps_per_epoch": 2, "workers": 0}
    chosen |= {"threads": torch.get_num_threads(), "model": {"name": "unet", "width": 2, "depth": 1}}
    return TrainSettings(**{**chosen, **options})


@pytest.mark.parametrize(("found", "expected"), [(FAST, "bf16"), (PLAIN, "fp32"), ({}, "fp32")])
def test_auto_is_what_the_cpu_computes_in(tiles, found, expected, monkeypatch):
    monkeypatch.setattr(units, "capabilities", lambda: found)
    auto = settings(tiles, "unused")
    assert auto.precision == "auto"
    assert precision_of(settled(auto, gpu=False)) == expected
    assert precision_of(settled(auto, gpu=True)) == "bf16"
    store = TileStore.open(tiles)
    same = [identity_of(settings(tiles, "unused", precision=name), store) for name in ("auto", expected)]
    assert same[0] == same[1], "a fit of an earlier version, which named its precision, is gone on with"
    assert settled(settings(tiles, "unused", precision="fp16"), gpu=False).precision == "fp16"
    with pytest.raises(ValueError, match="settle the settings first"):
        precision_of(auto)


def test_a_fit_is_not_gone_on_with_in_another_precision(tiles, tmp_path, monkeypatch):
    monkeypatch.setattr(units, "capabilities", lambda: PLAIN)
    first = train(settings(tiles, tmp_path / "fit"))
    assert read_card(first.last).training["settings"]["precision"] == "fp32"
    monkeypatch.setattr(units, "capabilities", lambda: FAST)
    with pytest.raises(SettingsError, match="precision: fp32 there, bf16 now"):
        train(settings(tiles, tmp_path / "fit"))
    # The other machine can be told to.
    again = train(settings(tiles, tmp_path / "fit", precision="fp32"))
    assert again.history == first.history


def test_what_a_step_waits_for_its_tiles_is_in_the_table(tiles, tmp_path):
    trained = train(settings(tiles, tmp_path / "fit"))
    (row,) = trained.history
    assert 0 <= float(row["data_wait"]) <= float(row["seconds"])
    # A fit of an earlier version did not measure it, and is gone on with.
    path = tmp_path / "fit" / "state.pt"
    state = torch.load(path, weights_only=True)
    del state["history"][0]["data_wait"]
    torch.save(state, path)
    assert [item["data_wait"] for item in train(settings(tiles, tmp_path / "fit")).history] in (
        ["0.0"],
        [row["data_wait"]],
    )
