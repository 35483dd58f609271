"""The number format that a fit computes in, where the settings leave it open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, TypeVar

from microseg_ray.models.runtimes.units import has_bf16

if TYPE_CHECKING:
    from microseg_ray.settings.epochs import EpochSettings

S = TypeVar("S", bound="EpochSettings")

__all__ = ["Precision", "precision_of", "settled"]

Precision = Literal["bf16", "fp16", "fp32"]


def settled(settings: S, *, gpu: bool) -> S:
    """The settings with `bf16` or `fp32` in place of `precision: auto`.

    A fit is bound to its precision, so this is done once, in the process that starts it: workers on other machines compute in
    what was found there.

    Args:
        settings: Of a job that fits a network.
        gpu: Whether the fit runs on GPUs.

    Example:
        >>> from microseg_ray.settings import TrainSettings
        >>> settled(TrainSettings(tiles="t", output="o", precision="fp16"), gpu=False).precision
        'fp16'
    """
    if settings.precision != "auto":
        return settings
    return settings.model_copy(update={"precision": "bf16" if has_bf16(gpu=gpu) else "fp32"})


def precision_of(settings: EpochSettings) -> Precision:
    """The precision of settled settings.

    Raises:
        ValueError: They are not settled.
    """
    if settings.precision == "auto":
        raise ValueError("precision auto: settle the settings first")
    return settings.precision
