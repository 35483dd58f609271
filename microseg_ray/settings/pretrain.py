"""Settings of the pretrain job."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from microseg_ray.settings.base import Frozen
from microseg_ray.settings.epochs import EpochSettings
from microseg_ray.settings.limits import Workers
from microseg_ray.settings.scaling import Scaling
from microseg_ray.settings.source import SourceSettings

__all__ = ["MaskingSettings", "PretrainSettings"]

CROPS_FOLDER = "crops"


class MaskingSettings(Frozen):
    """Which pixels are hidden from the network, and are to be predicted.

    Example:
        >>> MaskingSettings(block=16).share
        0.6
    """

    block: int = Field(default=32, ge=2, le=1024, description="side of the hidden squares in px")
    share: float = Field(default=0.6, gt=0, lt=1, description="share of the squares that are hidden")


class PretrainSettings(EpochSettings):
    """`pretrain`: archive without labels -> weights that `train` starts from."""

    job: ClassVar[str] = "pretrain"
    archive: str = Field(description="folder, glob or file of micrographs, or the URL of one; no masks are needed")
    crops: int = Field(
        default=1024,
        ge=1,
        le=1 << 24,
        description="squares that are drawn from the archive, by area; at least one of each micrograph",
    )
    tile: int = Field(default=256, ge=8, le=8192, description="side of these squares in px")
    masking: MaskingSettings = MaskingSettings()
    scaling: Scaling = Scaling()
    source: SourceSettings = SourceSettings()
    fingerprint: Literal["stat", "content"] = Field(default="stat", description="how a changed input is noticed")
    workers: Workers = Field(default=1, description="0 runs in this process, without Ray")
    gpu: bool = False

    @property
    def store(self) -> str:
        """Folder of the squares that were drawn, a tile store without classes."""
        return str(Path(self.output) / CROPS_FOLDER)

    @model_validator(mode="after")
    def _needs_no_labels(self) -> Self:
        if self.augmentation.copy_paste:
            raise ValueError("augment.copy_paste: there are no labels that would tell objects; leave it out")
        return self

    @model_validator(mode="after")
    def _two_blocks_at_least(self) -> Self:
        if 2 * self.masking.block > self.tile:
            raise ValueError(
                f"masking.block {self.masking.block}: a square of {self.tile} px (tile) must hold two blocks a side; "
                "lower it, or raise tile"
            )
        return self
