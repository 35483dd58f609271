"""Settings: one frozen model per job; YAML file < environment < command line, merged field by field.

One YAML may hold the sections of several jobs (`tile:`, `train:` ...) and what they share: `classes:`, `data:` (images,
masks, groups, splits) and `ray:`. A job reads its own section and those shared keys that it has a field for. An unknown
key anywhere is an error that names it.
"""

from __future__ import annotations

import os
import re
import reprlib
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar, cast, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    TypeAdapter,
    ValidationError,
    create_model,
    field_validator,
    model_serializer,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    CliApp,
    CliPositionalArg,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import (
    SettingsError as PydanticSettingsError,
)

from microseg_ray.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic.fields import FieldInfo

__all__ = [
    "IGNORE_INDEX",
    "ClassSpec",
    "DataSettings",
    "DemoSettings",
    "EngineSettings",
    "EvaluateSettings",
    "Frozen",
    "InfoSettings",
    "JobSettings",
    "MeasureSettings",
    "ModelSettings",
    "OptimizerSettings",
    "PlanSettings",
    "PostprocessSettings",
    "RaySettings",
    "ReportSettings",
    "Scaling",
    "SegmentSettings",
    "SimulateSettings",
    "TileSettings",
    "TrainSettings",
    "VerifySettings",
    "default_color",
    "load_settings",
    "settings_from",
]

IGNORE_INDEX = 255
"""The mask value of a pixel that has no class: not labelled, not measured, or burned-in text."""

MAX_CONFIG_BYTES = 1 << 20
SHARED_SECTIONS = ("classes", "data", "ray")
# Okabe and Ito's palette, which colour-blind readers can tell apart; background first, dark.
_PALETTE = ("#202020", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")


def default_color(index: int) -> str:
    """The colour of class `index` where the user names none, as `#rrggbb`.

    Example:
        >>> default_color(1)
        '#e69f00'
    """
    if index < len(_PALETTE):
        return _PALETTE[index]
    # The golden angle keeps any number of further hues apart.
    import colorsys

    red, green, blue = colorsys.hsv_to_rgb(index * 0.618033988749895 % 1.0, 0.65, 0.95)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


class Frozen(BaseModel):
    """Base of the nested settings: immutable, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ClassSpec(Frozen):
    """One class: its name and the colour that it is drawn in. Its index is its place in the list.

    Example:
        >>> ClassSpec(name="pore", color="#ff0000").name
        'pore'
    """

    name: str = Field(min_length=1)
    color: str = Field(default="", pattern=r"^(#[0-9a-fA-F]{6})?$")


def _classes(value: Any) -> Any:
    """Accept `[clay, silt]` as well as `[{name: clay, color: "#ff0000"}]`."""
    if not isinstance(value, list | tuple):
        return value
    specs = [{"name": item} if isinstance(item, str) else item for item in value]
    names = [
        item["name"] if isinstance(item, dict) and "name" in item else getattr(item, "name", None) for item in specs
    ]
    doubled = sorted({str(name) for name in names if name is not None and names.count(name) > 1})
    if doubled:
        raise ValueError(f"class name used twice: {', '.join(doubled)}")
    if len(specs) > IGNORE_INDEX:
        raise ValueError(
            f"{len(specs)} classes: at most {IGNORE_INDEX} fit a uint8 mask, {IGNORE_INDEX} is the ignore index"
        )
    return tuple(
        item
        if isinstance(item, ClassSpec)
        else {**item, "color": item.get("color") or default_color(index)}
        if isinstance(item, dict)
        else item
        for index, item in enumerate(specs)
    )


Classes = Annotated[tuple[ClassSpec, ...], BeforeValidator(_classes)]


def _pixel_size(value: Any) -> Any:
    """Accept one number for square pixels, `0.5`, as well as (y, x), `[0.5, 0.52]`."""
    if isinstance(value, int | float | str):
        value = [value]
    if isinstance(value, list | tuple) and len(value) == 1:
        value = [value[0], value[0]]
    return value


def _lone(value: Any) -> Any:
    """The command line makes a list of what a field may take as a list: `--size 400` arrives as `[400]`."""
    lone = isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | int)
    return value[0] if lone else value


PixelSize = Annotated[tuple[PositiveFloat, PositiveFloat] | None, BeforeValidator(_pixel_size)]


class Scaling(Frozen):
    """How intensities become the numbers that a model sees: (value - low) / (high - low), never per tile.

    `dtype`: low and high are the range of the integer type (0 and 1 for floats). `fixed`: `low` and `high` are
    intensities. `percentile`: `low` and `high` are percentiles of each whole micrograph, from a regular subsample.

    Before that, `flat_field` takes the uneven illumination of the whole micrograph away: `divide` for one that
    multiplies (a lamp, a detector's sensitivity), `subtract` for one that adds (stray light). After it, `clahe`
    equalises the histogram of each tile by itself, with this clip limit; that depends on the tile, so stitched masks
    can show where tiles meet.

    Example:
        >>> Scaling(kind="percentile", low=1.0, high=99.0).kind
        'percentile'
        >>> Scaling().model_dump(), Scaling(flat_field="divide").model_dump()["flat_field"]
        ({'kind': 'dtype', 'low': None, 'high': None}, 'divide')
    """

    kind: Literal["dtype", "fixed", "percentile"] = "dtype"
    low: float | None = None
    high: float | None = None
    flat_field: Literal["none", "divide", "subtract"] = "none"
    clahe: float | None = Field(
        default=None, gt=0, le=1, description="clip limit; depends on the tile, so seams can show"
    )

    @model_serializer(mode="wrap")
    def _without_unused(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Digests of tile stores and checkpoints are taken over this: a step that is not used must not change them.
        values: dict[str, Any] = handler(self)
        unused = {"flat_field": "none", "clahe": None}
        return {key: value for key, value in values.items() if key not in unused or value != unused[key]}

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.kind == "dtype":
            if self.low is not None or self.high is not None:
                raise ValueError("scaling.low and scaling.high go with kind fixed or percentile, not with dtype")
            return self
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError(f"scaling.kind {self.kind} needs scaling.low < scaling.high")
        if self.kind == "percentile" and not (self.low >= 0 and self.high <= 100):
            raise ValueError("scaling.low and scaling.high are percentiles here: 0 to 100")
        return self


class RaySettings(Frozen):
    """Where Ray runs: `address: null` starts one inside this process, `auto` or a URL joins a cluster."""

    address: str | None = None
    num_cpus: int | None = Field(default=None, ge=1)
    object_store_memory: int = Field(default=256 * 1024**2, ge=78_643_200)


class DataSettings(Frozen):
    """What the jobs share: micrographs, their masks, and which of them belong together.

    `images` and `masks` are folders, globs or single files. A mask belongs to the image whose stem without
    `image_suffix` equals the mask's stem without `mask_suffix`. `group` is a regular expression that is searched in the
    file's stem; its first capture group (or the whole match) names the group, and a group is never split. `splits` maps a
    split to a list of groups, or to a share between 0 and 1; groups in no list fall to the shares, or to `train`.
    """

    images: str | None = None
    masks: str | None = None
    image_suffix: str = ""
    mask_suffix: str = ""
    group: str | None = None
    splits: dict[str, float | tuple[str, ...]] = Field(default_factory=dict)
    seed: int = 0

    @field_validator("group")
    @classmethod
    def _is_regex(cls, value: str | None) -> str | None:
        if value is not None:
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"group {value!r} is not a regular expression: {error}") from error
        return value

    @field_validator("splits")
    @classmethod
    def _shares(cls, value: dict[str, float | tuple[str, ...]]) -> dict[str, float | tuple[str, ...]]:
        shares = [share for share in value.values() if isinstance(share, float | int)]
        if any(not 0 <= share <= 1 for share in shares) or sum(shares) > 1 + 1e-9:
            raise ValueError(f"splits: shares {shares} must lie between 0 and 1 and not exceed 1 together")
        return value


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


class ModelSettings(Frozen):
    """Which architecture, and its options."""

    name: Literal["unet"] = "unet"
    width: int = Field(default=32, ge=1, description="channels of the first level; doubled at each level")
    depth: int = Field(default=4, ge=1, le=7, description="number of poolings")
    norm: Literal["batch", "group", "instance", "none"] = "batch"
    dropout: float = Field(default=0.0, ge=0, lt=1)


class OptimizerSettings(Frozen):
    """Optimizer and schedule."""

    name: Literal["adamw", "sgd"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=1e-2, ge=0)
    momentum: float = Field(default=0.9, ge=0, lt=1)
    schedule: Literal["constant", "poly", "cosine"] = "cosine"
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of all steps in which the rate rises from 0")


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
    output: str = Field(description="folder for metrics.json")
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

SettingsT = TypeVar("SettingsT", bound=JobSettings)


def load_settings(cls: type[SettingsT], arguments: list[str] | None = None, config: Path | None = None) -> SettingsT:
    """Settings of one job from YAML, environment and command line.

    Args:
        cls: The job's settings model.
        arguments: Command line after the job's name and the config, `["--epochs", "3"]`.
        config: YAML file; none is fine.

    Returns:
        The validated, frozen settings.

    Raises:
        SettingsError: Unknown key, wrong value, unreadable YAML; the message names file and key.

    Example:
        >>> load_settings(MeasureSettings, ["--run", "runs/a"]).run
        'runs/a'
        >>> load_settings(MeasureSettings, ["--rum", "runs/a"])
        Traceback (most recent call last):
            ...
        microseg_ray.errors.SettingsError: --rum: no such option of `measure`; did you mean --run?
    """
    prefix = f"MICROSEG_{cls.job.upper()}__"
    _refuse_unknown_environment(cls, prefix)
    _refuse_unknown_options(cls, arguments or [])
    values = read_config(config, cls) if config is not None else {}
    bound = type(
        cls.__name__,
        (cls,),
        {
            "_file_values": values,
            "__doc__": cls.__doc__,
            "__module__": cls.__module__,
            "__annotations__": {"_file_values": ClassVar[dict[str, Any]]},
            "model_config": SettingsConfigDict(env_prefix=prefix, cli_prog_name=f"microseg {cls.job}"),
        },
    )
    loaded: Any
    try:
        loaded = CliApp.run(bound, cli_args=_plain_flags(cls, arguments or []), cli_exit_on_error=False)
    except ValidationError as error:
        raise SettingsError(_explain(error, cls, config)) from error
    except PydanticSettingsError as error:
        raise SettingsError(f"{cls.job}: {error}") from error
    except SystemExit as error:
        if error.code:
            raise SettingsError(
                f"{cls.job}: the command line could not be read; see microseg {cls.job} --help"
            ) from error
        raise
    values = {name: getattr(loaded, name) for name in cls.model_fields}
    return cast("SettingsT", cls.model_construct(_fields_set=loaded.model_fields_set, **values))


def settings_from(cls: type[SettingsT], values: Mapping[str, Any]) -> SettingsT:
    """Settings from plain values alone, as `resolved` gave them; no file, environment or command line reaches in.

    Args:
        cls: The job's settings model.
        values: By field; what is left out has its default.

    Raises:
        SettingsError: An unknown field or a wrong value.

    Example:
        >>> settings_from(MeasureSettings, {"run": "runs/a"}).run
        'runs/a'
    """
    frozen = TypeAdapter(create_model(cls.__name__, __base__=_PlainBase, **_fields(cls)))
    try:
        checked = frozen.validate_python(dict(values))
    except ValidationError as error:
        raise SettingsError(_explain(error, cls, None)) from error
    return cast("SettingsT", cls.model_construct(**{name: getattr(checked, name) for name in cls.model_fields}))


def _fields(cls: type[BaseModel]) -> dict[str, Any]:
    return {name: (info.annotation, info) for name, info in cls.model_fields.items()}


class _PlainBase(Frozen):
    """Base of what `settings_from` checks with: the fields of a job without its sources."""


def read_config(path: Path, cls: type[JobSettings]) -> dict[str, Any]:
    """The values that a YAML file holds for one job: its own section over the shared ones.

    Raises:
        SettingsError: The file is missing, too large, not a mapping, or has an unknown section or shared key.
    """
    document = _read_yaml(path)
    unknown = sorted(set(document) - set(JOBS) - set(SHARED_SECTIONS) - {"tune"})
    if unknown:
        raise SettingsError(f"{path}: unknown section {unknown[0]!r}; known are {', '.join([*SHARED_SECTIONS, *JOBS])}")
    shared, own = (_section(document, name, path) for name in ("data", cls.job))
    strange = sorted(set(shared) - set(DataSettings.model_fields))
    if strange:
        raise SettingsError(f"{path}: data.{strange[0]}: no such key; known are {', '.join(DataSettings.model_fields)}")
    offered: dict[str, Any] = {**shared, **{name: document[name] for name in ("classes", "ray") if name in document}}
    return _merged({name: value for name, value in offered.items() if name in cls.model_fields}, own)


def _section(document: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    section = document.get(name)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise SettingsError(f"{path}: {name}: must hold keys, one a line, not {section!r}")
    return section


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Field by field, as pydantic-settings merges environment and command line."""
    merged = below | above
    for name in set(below) & set(above):
        if isinstance(below[name], dict) and isinstance(above[name], dict):
            merged[name] = _merged(below[name], above[name])
    return merged


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise SettingsError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes; this is no config file")
        text = path.read_text(encoding="utf-8")
        # Aliases can blow a kilobyte up to gigabytes; no config needs them.
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise SettingsError(f"{path}: YAML aliases (*name) are not allowed in a config; write the values out")
        _refuse_odd_keys(yaml.compose(text, Loader=yaml.SafeLoader), path)
        document = yaml.safe_load(text)
    except OSError as error:
        raise SettingsError(f"{path}: the config cannot be read ({error.strerror}); check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{path}: not valid YAML: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: a config holds sections such as `train:`, not {type(document).__name__}")
    return document


def _refuse_odd_keys(node: yaml.Node | None, path: Path) -> None:
    """YAML itself takes the last of two equal keys without a word, and reads `no:` and `1:` as no words at all."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_odd_keys(item, path)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            where = f"{path}: line {key.start_mark.line + 1}"
            if key.tag != "tag:yaml.org,2002:str":
                raise SettingsError(f"{where}: the key {key.value!r} is not read as text; put it in quotes")
            if key.value in seen:
                raise SettingsError(f"{where}: the key {key.value!r} stands here for the second time; keep one of them")
            seen.add(key.value)
            _refuse_odd_keys(value, path)


def _refuse_unknown_environment(cls: type[JobSettings], prefix: str) -> None:
    jobs = tuple(f"MICROSEG_{job.upper()}__" for job in (*JOBS, "tune"))
    example = next(iter(cls.model_fields)).upper()
    for name in sorted(os.environ):
        if name.upper().startswith("MICROSEG_") and not name.upper().startswith(jobs):
            raise SettingsError(
                f"environment variable {name}: names no job; write MICROSEG_JOB__KEY, as in {prefix}{example}"
            )
        if name.upper().startswith(prefix):
            first = name[len(prefix) :].split("__")[0].lower()
            if first not in cls.model_fields:
                raise SettingsError(f"environment variable {name}: `{cls.job}` has no setting {first!r}")


def _refuse_unknown_options(cls: type[JobSettings], arguments: list[str]) -> None:
    """Name an unknown option by itself; argparse would print a page of usage instead."""
    known = set(_option_names(cls))
    flags = _flags(cls)
    for argument in arguments:
        if not argument.startswith("--") or argument == "--":
            continue
        name = argument[2:].split("=")[0]
        if name == "help" or name in known or name.removeprefix("no-") in flags:
            continue
        from difflib import get_close_matches

        near = get_close_matches(name, known, n=1)
        hint = f"did you mean --{near[0]}?" if near else f"see microseg {cls.job} --help"
        raise SettingsError(f"--{name}: no such option of `{cls.job}`; {hint}")


def _plain_flags(cls: type[JobSettings], arguments: list[str]) -> list[str]:
    """`--augment false` as `--no-augment`, the only form that argparse takes."""
    flags = _flags(cls)
    plain: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("--") or name not in flags:
            plain.append(argument)
            continue
        if not equals and rest and rest[0].lower() in {"true", "false"}:
            value, equals = rest.pop(0), "="
        if equals and value.lower() not in {"true", "false"}:
            raise SettingsError(f"{cls.job}.{name}: must be true or false (got {value!r})")
        plain.append(f"--no-{name}" if value.lower() == "false" else f"--{name}")
    return plain


def _flags(cls: type[JobSettings]) -> set[str]:
    return {name for name, info in cls.model_fields.items() if info.annotation is bool}


def _option_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, info in model.model_fields.items():
        names.append(prefix + name)
        nested = _nested(info)
        if nested:
            names += _option_names(nested, f"{prefix}{name}.")
    return names


def _nested(info: FieldInfo) -> type[BaseModel] | None:
    """The model that a field holds, if it holds one."""
    parts = (info.annotation, *get_args(info.annotation))
    return next((part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), None)


def _known(cls: type[BaseModel], keys: tuple[int | str, ...]) -> str:
    """The fields beside a key that is none of them."""
    model: type[BaseModel] | None = cls
    for key in keys[:-1]:
        if model is not None and key in model.model_fields:
            model = _nested(model.model_fields[str(key)])
    return ", ".join((model or cls).model_fields)


def _explain(error: ValidationError, cls: type[JobSettings], config: Path | None) -> str:
    """One line a problem, each with its key; pydantic's own text has the class name and a URL instead."""
    lines: list[str] = []
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"]) or "settings"
        message = problem["msg"].removeprefix("Value error, ")
        match problem["type"]:
            case "extra_forbidden":
                where = f"{config}: " if config is not None else ""
                lines.append(f"{where}{cls.job}.{key}: no such setting; known are {_known(cls, problem['loc'])}")
            case "missing":
                lines.append(f"{cls.job}.{key}: missing; give --{key} or put `{key}:` under `{cls.job}:` in the config")
            case _:
                shown = "" if key == "settings" else f" (got {reprlib.repr(problem.get('input'))})"
                lines.append(f"{cls.job}.{key}: {message}{shown}")
    return "\n".join(lines)
