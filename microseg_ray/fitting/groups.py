"""Which parameters share a learning rate and a weight decay: an encoder may learn slower than the rest of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from microseg_ray.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from microseg_ray.settings import OptimizerSettings

__all__ = ["OF_ENCODER", "SHARE", "encoder_of", "parameter_groups"]

SHARE = "rate_share"
"""Key of a group: its learning rate as share of the fit's."""

OF_ENCODER = "of_encoder"
"""Key of a group: whether it keeps its weights while only the decoder learns (`optimizer.hold_encoder`)."""


def parameter_groups(model: nn.Module, chosen: OptimizerSettings) -> list[dict[str, Any]]:
    """The groups of an optimizer: first what has the full rate, then the encoder from its last stage to its first.

    Norms and biases set scale and offset, so that decay does not regularise them: they are in groups without it.

    Args:
        model: With an attribute `encoder` where `encoder_rate`, `stage_decay` or `hold_encoder` is set; `stage_of` of the
            encoder says which stage a parameter belongs to.
        chosen: `encoder_rate`, `stage_decay`, `hold_encoder` and `weight_decay` count.

    Raises:
        SettingsError: The model has no encoder, or an encoder without stages.

    Example:
        >>> from microseg_ray.models import build_model
        >>> from microseg_ray.settings import OptimizerSettings
        >>> model = build_model("efficientnet_unet", 1, 2, {"stages": 2})
        >>> groups = parameter_groups(model, OptimizerSettings(encoder_rate=0.2, stage_decay=0.5))
        >>> [(group["rate_share"], group["weight_decay"], len(group["params"])) for group in groups]
        [(1.0, 0.01, 7), (1.0, 0.0, 11), (0.2, 0.01, 6), (0.2, 0.0, 12), (0.1, 0.01, 3), (0.1, 0.0, 6)]
    """
    apart = (chosen.encoder_rate, chosen.stage_decay, chosen.hold_encoder) != (1.0, 1.0, 0.0)
    stage_of, last = _stages(model, chosen) if apart else (None, 0)
    found: dict[tuple[int, bool], list[Tensor]] = {(0, True): [], (0, False): []}
    for name, value in model.named_parameters():
        depth = 0
        if stage_of is not None and name.startswith("encoder."):
            depth = 1 + last - stage_of(name.removeprefix("encoder."))
        found.setdefault((depth, value.ndim > 1), []).append(value)
    return [
        {
            "params": params,
            "weight_decay": chosen.weight_decay if decayed else 0.0,
            SHARE: 1.0 if depth == 0 else chosen.encoder_rate * chosen.stage_decay ** (depth - 1),
            OF_ENCODER: depth > 0,
        }
        for (depth, decayed), params in sorted(found.items(), key=lambda item: (item[0][0], not item[0][1]))
    ]


def encoder_of(model: nn.Module, key: str) -> nn.Module:
    """The encoder of a model.

    Args:
        model: Unwrapped.
        key: The setting that needs it, for the error.

    Raises:
        SettingsError: The model has none.
    """
    encoder = getattr(model, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise SettingsError(f"{key}: {type(model).__name__} has no encoder of its own; leave this out")
    return encoder


def _stages(model: nn.Module, chosen: OptimizerSettings) -> tuple[Callable[[str], int], int]:
    """Which stage of the encoder a parameter belongs to, and the number of the last."""
    encoder = encoder_of(model, "train.optimizer: encoder_rate, stage_decay, hold_encoder")
    stage_of = getattr(encoder, "stage_of", None)
    if stage_of is None:
        if chosen.stage_decay != 1:
            raise SettingsError(
                f"train.optimizer.stage_decay: {chosen.stage_decay} needs an encoder whose stages are known, as those of "
                "efficientnet_unet, efficientnet_deeplab, resnet_unet and deeplabv3plus; set 1"
            )
        return lambda _: 0, 0
    return stage_of, max(stage_of(name) for name, _ in encoder.named_parameters())
