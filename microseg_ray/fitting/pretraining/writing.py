"""The result of a pre-training: weights for `train --model.weights`, and a record of where they come from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file

from microseg_ray.files import whole, write_json
from microseg_ray.models.skeleton import model_skeleton
from microseg_ray.versions import versions

if TYPE_CHECKING:
    from torch import nn

    from microseg_ray.fitting.history import EpochReport
    from microseg_ray.settings import PretrainSettings
    from microseg_ray.tiles.store import TileStore

__all__ = ["RECORD_FILE", "WEIGHTS_FILE", "output_layers", "write_weights"]

WEIGHTS_FILE = "weights.safetensors"
RECORD_FILE = "pretraining.json"


def output_layers(settings: PretrainSettings, channels: int) -> set[str]:
    """Names of the tensors whose shape depends on what comes out, which are of no use to a segmentation.

    Args:
        settings: `model` counts.
        channels: Of the micrographs.
    """
    one, other = (
        model_skeleton(settings.model.name, channels, outputs, settings.model.options).state_dict()
        for outputs in (channels, channels + 1)
    )
    return {name for name, tensor in one.items() if tensor.shape != other[name].shape}


def write_weights(settings: PretrainSettings, store: TileStore, model: nn.Module, row: EpochReport) -> None:
    """Write OUTPUT/weights.safetensors, then OUTPUT/pretraining.json with its digest; each whole or absent.

    Args:
        settings: The job's settings.
        store: The squares.
        model: After an epoch.
        row: Of this epoch.
    """
    output = Path(settings.output)
    output.mkdir(parents=True, exist_ok=True)
    left_out = output_layers(settings, store.spec.channels)
    tensors = {name: value.cpu().contiguous() for name, value in model.state_dict().items() if name not in left_out}
    with whole(output / WEIGHTS_FILE) as partial:
        save_file(tensors, partial)
    micrographs = len(set(store.table["micrograph"].to_pylist())) if store.table is not None else 0
    write_json(
        output / RECORD_FILE,
        {
            "weights": WEIGHTS_FILE,
            "sha256": hashlib.sha256((output / WEIGHTS_FILE).read_bytes()).hexdigest(),
            "model": {"name": settings.model.name, "options": settings.model.options, "channels": store.spec.channels},
            "started_from": settings.model.weights or "random weights",
            "scaling": store.spec.scaling.model_dump(mode="json"),
            "archive": settings.archive,
            "micrographs": micrographs,
            "squares": store.spec.tiles,
            "squares_digest": store.digest,
            "masking": settings.masking.model_dump(mode="json"),
            "epochs": row.epoch,
            "loss": row.loss,
            "versions": versions(),
        },
    )
