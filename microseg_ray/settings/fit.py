"""Settings of a fit: what train and tune share."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from microseg_ray.settings.base import unwrap_single
from microseg_ray.settings.classes import Classes
from microseg_ray.settings.epochs import EpochSettings
from microseg_ray.settings.fitting import EarlyStoppingSettings, LossSettings, SamplingSettings, loss_section

__all__ = ["FitSettings"]

Weight = Annotated[float, Field(ge=0)]


class FitSettings(EpochSettings):
    """What decides how a model is fitted, wherever it runs."""

    in_object_stores: ClassVar[frozenset[str]] = frozenset({"model.weights", "tiles"})
    tiles: str = Field(description="tile store that the tile job wrote")
    crop: int | None = Field(
        default=None, ge=8, le=8192, description="train on crops of this many pixels out of larger tiles"
    )
    loss: Annotated[LossSettings, BeforeValidator(loss_section)] = LossSettings()
    class_weights: Annotated[
        Literal["none", "inverse", "median", "inverse_percent"] | tuple[Weight, ...], BeforeValidator(unwrap_single)
    ] = "none"
    sampling: SamplingSettings = SamplingSettings()
    accumulate: int = Field(
        default=1, ge=1, le=1 << 20, description="parts that a step's batch is computed in, to save memory"
    )
    ema: float | None = Field(default=None, gt=0, lt=1, description="decay of averaged weights, which are then kept")
    freeze_batch_norm: bool | Literal["encoder"] = Field(
        default=False, description="batch norms keep their weights and statistics: all of them, or those of the encoder"
    )
    hold: float = Field(
        default=0.0,
        ge=0,
        description="weight of the divergence from model.weights on unlabelled pixels: keeps what few labels do not show",
    )
    compile: bool = Field(default=False, description="torch.compile, where it works here")
    select: str = Field(
        default="mean_iou", description="what makes an epoch the best: mean_iou, loss, pixel_accuracy or iou_CLASS"
    )
    early_stopping: EarlyStoppingSettings | None = None
    keep: int = Field(default=0, ge=0, description="how many of the best epochs stay in OUTPUT/epochs")
    classes: Classes = Field(
        default=(), description="names that the store must have in this order; default: not checked"
    )
    allow_empty_classes: bool = Field(
        default=False, description="train although a named class has no pixel in split train"
    )
    init_from: str | None = Field(
        default=None, description="output folder of another fit whose weights, optimizer and epoch this one starts from"
    )

    @property
    def store(self) -> str:
        """Folder of the tile store that is learnt from."""
        return self.tiles

    @property
    def averaging(self) -> float | None:
        """Decay of the averaged weights, None for none."""
        return self.ema

    @model_validator(mode="after")
    def _parts_of_a_batch(self) -> Self:
        if self.batch < self.accumulate:
            raise ValueError(f"accumulate: {self.accumulate} parts of a batch of {self.batch} tiles; raise batch")
        return self

    @model_validator(mode="after")
    def _held_to_weights(self) -> Self:
        if self.hold and self.model.start is None:
            raise ValueError(
                f"hold: {self.hold} holds a fit to its first weights; give model.weights, or leave hold out"
            )
        return self
