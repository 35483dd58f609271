"""Settings of the evaluate job."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from microseg_ray.settings.checkpoints import CheckpointFolders
from microseg_ray.settings.classes import Classes
from microseg_ray.settings.data import SplitFields
from microseg_ray.settings.limits import GiB, Halo, RuntimeChoice, Threads, TileArea, TileSide
from microseg_ray.settings.sections import SectionFields
from microseg_ray.settings.source import SourceSettings

__all__ = ["EvaluateSettings"]


_OF_CHECKPOINT = (
    *("tile", "tile_area", "halo", "shard", "batch", "path", "strip", "strip_width", "blend", "overlap", "tta"),
    *("precision", "runtime", "gpu"),
    *("scale_tolerance", "on_scale_mismatch", "on_intensity_mismatch"),
)


class EvaluateSettings(SectionFields, SplitFields):
    """`evaluate`: masks against predicted masks, or against what a checkpoint predicts."""

    job: ClassVar[str] = "evaluate"
    in_object_stores: ClassVar[frozenset[str]] = frozenset(
        {"against", "checkpoint", "images", "masks", "output", "predictions", "source.pixel_sizes", "table"}
    )
    predictions: str | None = Field(
        default=None, description="folder, glob or file of predicted masks, or a run folder"
    )
    prediction_suffix: str = ""
    checkpoint: CheckpointFolders | None = Field(default=None, description="one or several, as of segment")
    split: str | None = Field(default=None, description="only this split of `data:`")
    calibrate_split: str | None = Field(
        default="val",
        description="thresholds and temperature are chosen on this split; never on the one that is judged",
    )
    output: str = Field(default="evaluation", description="folder for metrics.json, tables and figures")
    classes: Classes = ()
    tile: TileSide | Literal["auto"] = "auto"
    tile_area: TileArea | Literal["auto"] = Field(default="auto", description="as of segment")
    halo: Halo | Literal["auto"] = "auto"
    shard: int = Field(default=2048, ge=64, le=1 << 16, description="as of segment; part of what decides the pixels")
    batch: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = Field(
        default="auto", description="as of segment; part of what decides the pixels"
    )
    path: Literal["auto", "strips", "tiles"] = Field(default="auto", description="as of segment")
    strip: Annotated[int, Field(ge=8, le=8192)] | Literal["auto"] = Field(default="auto", description="as of segment")
    strip_width: Annotated[int, Field(ge=64, le=1 << 24)] | Literal["auto"] = Field(
        default="auto", description="as of segment"
    )
    blend: Literal["crop", "hann", "gaussian", "mean"] = "crop"
    overlap: float = Field(default=0.5, ge=0, le=0.9, description="of neighbouring tiles for blend, as of segment")
    tta: bool = Field(default=False, description="average over the 8 symmetries of the square")
    precision: Literal["bf16", "fp32"] = "bf16"
    runtime: RuntimeChoice = Field(default="auto", description="what computes, as of segment")
    gpu: bool = False
    threads: Threads | None = None
    memory: GiB = Field(default=1.5, description="GiB that predicting may use, as of segment")
    source: SourceSettings = SourceSettings()
    scale_tolerance: float = Field(default=0.1, ge=0, le=10, description="as of segment")
    on_scale_mismatch: Literal["stop", "ignore"] = Field(
        default="stop",
        description="a micrograph of another pixel size than the model's is set aside, or judged as it is",
    )
    on_intensity_mismatch: Literal["stop", "note", "rescale"] = Field(
        default="stop",
        description="where bit depth or range are certainly not those of training: stop quarantines the micrograph, note goes "
        "on, rescale takes the range of the data for that of the type",
    )
    probabilities: bool = Field(default=True, description="judge probabilities too: AUPR, calibration, thresholds")
    withheld: Literal["left_out", "wrong"] = Field(
        default="left_out",
        description="labelled pixels that are predicted as 255: counted beside the figures, or as wrong in accuracy, IoU, F1 "
        "and recall",
    )
    resamples: int = Field(
        default=2000,
        ge=0,
        le=100_000,
        description="bootstrap resamples of micrographs or groups for intervals; 0: none",
    )
    against: str | None = Field(
        default=None,
        description="folder of another evaluation of the same true masks; the differences are written with intervals",
    )
    boundary_tolerance: Annotated[float, Field(ge=0)] | Literal["auto"] = Field(
        default=2.0, description="px of the boundary F1; auto: 0.75 % of the micrograph's diagonal"
    )
    figures: bool = Field(
        default=True, description="plots, panels, overlays and TensorBoard events; false: tables only"
    )
    pictures: int = Field(default=12, ge=0, description="micrographs that panels and overlays are drawn of, at most")
    disagreements: int = Field(
        default=100,
        ge=0,
        description="places where label and prediction disagree that are listed, those most worth a look first; 0: none",
    )
    write_back: bool = Field(
        default=False, description="put temperature and thresholds into the checkpoint's metrics, too"
    )

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.predictions is None) == (self.checkpoint is None):
            raise ValueError("give either predictions (predicted masks) or checkpoint (with images), not both or none")
        if self.table is not None and self.predictions is not None:
            raise ValueError("table: predictions are paired with masks by their names; give masks in place of table")
        if self.masks is None and self.table is None:
            raise ValueError("masks: the folder of true masks is missing; or give table")
        if self.checkpoint is not None and self.images is None and self.table is None:
            raise ValueError("images: a checkpoint needs micrographs to predict; give images or table")
        if self.checkpoint is None:
            self.refuse_given(_OF_CHECKPOINT, "goes with checkpoint; predictions are masks already")
        else:
            self.refuse_given(("prediction_suffix",), "goes with predictions; a checkpoint has none")
        if self.against is not None and not self.resamples:
            raise ValueError("against: a comparison takes resamples above 0")
        if self.write_back and isinstance(self.checkpoint, tuple):
            raise ValueError("write_back: several checkpoints have no card in common to write to; give one")
        if self.write_back and self.checkpoint is None:
            raise ValueError("write_back: there is no checkpoint to write to")
        return self
