"""The result of a pre-training: weights for `train --model.weights`, and a record of where they come from."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors.torch import save_file
from torch import nn

from microseg_ray.files import whole, write_json
from microseg_ray.models.skeleton import model_skeleton
from microseg_ray.versions import versions

if TYPE_CHECKING:
    from microseg_ray.fitting.history import EpochReport
    from microseg_ray.settings import PretrainSettings
    from microseg_ray.tiles.store import TileStore

__all__ = ["RECORD_FILE", "WEIGHTS_FILE", "kept_tensors", "write_weights"]

WEIGHTS_FILE = "weights.safetensors"
RECORD_FILE = "pretraining.json"


def kept_tensors(settings: PretrainSettings, channels: int) -> set[str]:
    """Names of the tensors that `train` can start from: the encoder's; of a model without one, all but the output layer's.

    A decoder that learnt to fill in pixels is a worse start than none (docs/results/training.md).

    Args:
        settings: `model` counts.
        channels: Of the micrographs.
    """
    one, other = (
        model_skeleton(settings.model.name, channels, outputs, settings.model.options)
        for outputs in (channels, channels + 1)
    )
    names = one.state_dict()
    # The levels of a U-Net are a list: no network that another decoder could use.
    if hasattr(one, "encoder") and not isinstance(one.encoder, nn.ModuleList):
        return {name for name in names if name.startswith("encoder.")}
    others = other.state_dict()
    return {name for name, tensor in names.items() if tensor.shape == others[name].shape}


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
    kept = kept_tensors(settings, store.spec.channels)
    tensors = {name: value.cpu().contiguous() for name, value in model.state_dict().items() if name in kept}
    with whole(output / WEIGHTS_FILE) as partial:
        save_file(tensors, partial)
    micrographs = len(set(store.table["micrograph"].to_pylist())) if store.table is not None else 0
    write_json(
        output / RECORD_FILE,
        {
            "weights": WEIGHTS_FILE,
            "part": "encoder" if all(name.startswith("encoder.") for name in kept) else "model",
            "sha256": hashlib.sha256((output / WEIGHTS_FILE).read_bytes()).hexdigest(),
            "model": {"name": settings.model.name, "options": settings.model.options, "channels": store.spec.channels},
            "started_from": settings.model.start or "random weights",
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
