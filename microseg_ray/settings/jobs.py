"""The settings of each job, one frozen model a job."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from pydantic_settings import (
    BaseSettings,
    CliPositionalArg,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from microseg_ray.settings.values import (
    Classes,
    DataSettings,
    ModelSettings,
    OptimizerSettings,
    PixelSize,
    RaySettings,
    Scaling,
    _lone,
)

__all__ = [
    "JOBS",
    "DemoSettings",
    "EngineSettings",
    "EvaluateSettings",
    "InfoSettings",
    "JobSettings",
    "MeasureSettings",
    "PlanSettings",
    "PostprocessSettings",
    "ReportSettings",
    "SegmentSettings",
    "SimulateSettings",
    "TileSettings",
    "TrainSettings",
    "VerifySettings",
]


class JobSettings(BaseSettings):
    """Base of every job's settings; see the module for where values come from."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
    )
    job: ClassVar[str] = ""

    @classmethod
    def settings_customise_sources(  # noqa: D102 - pydantic-settings' hook
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # `init_settings` holds the command line when CliApp runs, `_file_values` what the YAML said.
        return init_settings, env_settings, InitSettingsSource(settings_cls, dict(cls._file_values))

    _file_values: ClassVar[dict[str, Any]] = {}

    def resolved(self) -> dict[str, Any]:
        """These settings as plain JSON types, to be saved beside the output."""
        return self.model_dump(mode="json")


class _Data(JobSettings):
    """Fields of `data:` on the command line of a job: `--images`, `--masks` and so on."""

    images: str | None = Field(default=None, description="folder, glob or file of micrographs")
    masks: str | None = Field(default=None, description="folder, glob or file of masks")
    image_suffix: str = ""
    mask_suffix: str = ""
    group: str | None = None
    splits: dict[str, float | tuple[str, ...]] = Field(default_factory=dict)
    seed: int = 0

    @model_validator(mode="after")
    def _data_is_valid(self) -> Self:
        _ = self.data
        return self

    @property
    def data(self) -> DataSettings:
        """The shared `data:` section."""
        return DataSettings(**{name: getattr(self, name) for name in DataSettings.model_fields})


class TileSettings(_Data):
    """`tile`: archive of micrographs and masks -> tile store."""

    job: ClassVar[str] = "tile"
    output: str = Field(description="folder of the tile store that is written")
    classes: Classes = ()
    tile: int = Field(default=256, ge=8, le=8192)
    overlap: int = Field(default=32, ge=0)
    min_labelled: float = Field(default=0.0, ge=0, le=1, description="leave out tiles with a smaller labelled share")
    scaling: Scaling = Scaling()
    workers: int = Field(default=1, ge=0, description="0 runs in this process, without Ray")
    overwrite: bool = False
    ray: RaySettings = RaySettings()

    @model_validator(mode="after")
    def _overlap_fits(self) -> Self:
        if self.overlap >= self.tile:
            raise ValueError(f"overlap {self.overlap} must be smaller than tile {self.tile}")
        return self


class TrainSettings(JobSettings):
    """`train`: tile store -> checkpoint."""

    job: ClassVar[str] = "train"
    tiles: str = Field(description="tile store that the tile job wrote")
    output: str = Field(description="folder for best/, last/, metrics and events")
    epochs: int = Field(default=20, ge=1)
    batch: int = Field(default=8, ge=1, description="tiles per step over all workers together")
    workers: int = Field(default=1, ge=0, description="0 runs in this process, without Ray")
    gpu: bool = False
    model: ModelSettings = ModelSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    class_weights: Annotated[Literal["none", "inverse", "median"] | tuple[float, ...], BeforeValidator(_lone)] = "none"
    augment: bool = True
    precision: Literal["bf16", "fp32"] = "bf16"
    steps_per_epoch: int | None = Field(default=None, ge=1)
    max_failures: int = Field(default=2, ge=-1, description="how often a lost worker is replaced; -1: always")
    threads: int | None = Field(
        default=None, ge=1, description="torch threads per worker; default: its share of the cores"
    )
    seed: int = 0
    overwrite: bool = False
    ray: RaySettings = RaySettings()


class EngineSettings(JobSettings):
    """What segment, plan and verify share: everything that decides pixels, and how much fits where."""

    archive: str = Field(description="folder, glob or file of micrographs")
    checkpoint: str = Field(description="checkpoint folder of the train job")
    output: str = Field(description="run folder")
    tile: int | Literal["auto"] = Field(
        default="auto", description="largest tile side in px; auto: what the memory allows"
    )
    halo: int | Literal["auto"] = Field(default="auto", description="auto: the receptive field's radius")
    shard: int = Field(default=2048, ge=64, description="side of a mask shard, the unit of work and of resuming")
    batch: int | Literal["auto"] = "auto"
    blend: Literal["crop", "hann", "gaussian", "mean"] = "crop"
    overlap: float = Field(
        default=0.5, ge=0, le=0.9, description="overlap of neighbouring tiles for blend, share of the tile"
    )
    tta: bool = Field(default=False, description="average over the 8 symmetries of the square")
    precision: Literal["bf16", "fp32"] = "bf16"
    workers: int = Field(default=1, ge=0, description="0 runs in this process, without Ray")
    gpu: bool = False
    threads: int | None = Field(
        default=None, ge=1, description="torch threads per worker; part of what decides the bytes"
    )
    memory: float = Field(default=1.5, gt=0, description="GiB that a worker may use")
    fingerprint: Literal["stat", "content"] = "stat"
    pixel_size_um: PixelSize = Field(default=None, description="(y, x) or one number; overrides the files' own")
    extra: Literal["none", "margin", "entropy", "probabilities"] = "none"
    attempts: int = Field(default=3, ge=1, description="how often a shard that kills its worker is tried")
    shard_timeout: float = Field(default=900.0, gt=0, description="seconds after which a shard counts as stalled")
    seed: int = 0
    overwrite: bool = False
    ray: RaySettings = RaySettings()


class SegmentSettings(EngineSettings):
    """`segment`: archive -> a run: masks, counts, areas."""

    job: ClassVar[str] = "segment"


class PlanSettings(EngineSettings):
    """`plan`: what `segment` with the same arguments would do."""

    job: ClassVar[str] = "plan"


class VerifySettings(JobSettings):
    """`verify`: recompute random shards of a run and compare the bytes."""

    job: ClassVar[str] = "verify"
    run: str
    checkpoint: str | None = Field(default=None, description="default: the one that run.json names")
    shards: int = Field(default=8, ge=1)
    seed: int = 0


class MeasureSettings(JobSettings):
    """`measure`: the tables of a run again from its counts, without the model."""

    job: ClassVar[str] = "measure"
    run: str
    pixel_size_um: PixelSize = None


class PostprocessSettings(JobSettings):
    """`postprocess`: a run -> a new run without specks and holes, or with smoother borders.

    Specks and holes go first, then the majority filter; see `microseg_ray.postprocessing` for what each does.
    """

    job: ClassVar[str] = "postprocess"
    run: str = Field(description="run folder whose masks are read; it is not changed")
    output: str = Field(description="folder of the new run")
    min_speck: int = Field(
        default=0, ge=0, le=4096, description="px; smaller connected parts of a class but the first are removed"
    )
    min_hole: int = Field(
        default=0,
        ge=0,
        le=4096,
        description="px; smaller connected parts of the first class, the background, are filled",
    )
    majority: int = Field(
        default=0, ge=0, le=127, description="px; each pixel takes the most frequent class in a square of this radius"
    )
    workers: int = Field(default=1, ge=0, description="0 runs in this process, without Ray")
    overwrite: bool = False
    ray: RaySettings = RaySettings()

    @model_validator(mode="after")
    def _does_something(self) -> Self:
        # Nothing connected has fewer pixels than one.
        if max(self.min_speck, self.min_hole) <= 1 and self.majority == 0:
            raise ValueError("nothing to do: give min_speck or min_hole above 1, or majority above 0")
        return self


class EvaluateSettings(_Data):
    """`evaluate`: masks against predicted masks, or against what a checkpoint predicts."""

    job: ClassVar[str] = "evaluate"
    predictions: str | None = Field(
        default=None, description="folder, glob or file of predicted masks, or a run folder"
    )
    prediction_suffix: str = ""
    checkpoint: str | None = None
    split: str | None = Field(default=None, description="only this split of `data:`")
    output: str = Field(default="evaluation", description="folder for metrics.json")
    classes: Classes = ()
    tile: int | Literal["auto"] = "auto"
    halo: int | Literal["auto"] = "auto"
    precision: Literal["bf16", "fp32"] = "bf16"
    threads: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.predictions is None) == (self.checkpoint is None):
            raise ValueError("give either predictions (predicted masks) or checkpoint (with images), not both or none")
        if self.masks is None:
            raise ValueError("masks: the folder of true masks is missing")
        if self.checkpoint is not None and self.images is None:
            raise ValueError("images: a checkpoint needs micrographs to predict")
        return self


class SimulateSettings(JobSettings):
    """`simulate`: micrographs with exact masks."""

    job: ClassVar[str] = "simulate"
    preset: Literal["grains"] = "grains"
    count: int = Field(default=4, ge=1)
    size: Annotated[int | tuple[int, int], BeforeValidator(_lone)] = 1024
    seed: int = 0
    output: str


class ReportSettings(JobSettings):
    """`report`: the HTML page of a run."""

    job: ClassVar[str] = "report"
    run: str


class InfoSettings(JobSettings):
    """`info`: what the engine sees in files."""

    job: ClassVar[str] = "info"
    files: CliPositionalArg[list[str]]


class DemoSettings(JobSettings):
    """`demo`: simulate, tile, train, segment, report, on an embedded Ray."""

    job: ClassVar[str] = "demo"
    output: str = "demo"
    size: int = Field(default=4096, ge=256, description="side of the large micrograph")
    count: int = Field(default=6, ge=3, description="training micrographs")
    epochs: int = Field(default=8, ge=1)
    workers: int = Field(default=2, ge=0)
    seed: int = 0
    overwrite: bool = True
    ray: RaySettings = RaySettings()


JOBS: dict[str, type[JobSettings]] = {
    cls.job: cls
    for cls in (
        SimulateSettings,
        TileSettings,
        TrainSettings,
        EvaluateSettings,
        PlanSettings,
        SegmentSettings,
        PostprocessSettings,
        MeasureSettings,
        VerifySettings,
        ReportSettings,
        InfoSettings,
        DemoSettings,
    )
}
