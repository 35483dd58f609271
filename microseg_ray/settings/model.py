"""Which model is trained: its architecture and the options of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import (
    Field,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from microseg_ray.settings.base import Frozen

__all__ = ["IMAGENET", "OPTIONS", "SCRATCH", "Architecture", "ClassifierSettings", "ModelSettings"]

Architecture = Literal[
    "unet",
    "resunet",
    "efficientnet_unet",
    "efficientnet_deeplab",
    "vgg16_unet",
    "deeplabv3plus",
    "resnet_unet",
    "defectsegnet",
    "smp",
    "timm",
]

IMAGENET = "imagenet"
"""In place of a file: the weights of an installed package (extra `pretrained`)."""

SCRATCH = "scratch"
"""In place of a file: random weights."""

# The default has none of them, so a section `model` with one of them and no name means the default of earlier versions.
_OPTIONS_OF_RESUNET = ("depth", "dilations")

OPTIONS: dict[str, dict[str, Any]] = {
    "unet": {
        "width": 32,
        "depth": 4,
        "norm": "batch",
        "dropout": 0.0,
        "activation": "relu",
        "dropout_place": "after",
    },
    "resunet": {"width": 24, "depth": 4, "dilations": (1, 2, 4), "detail": 8, "dropout": 0.0},
    "efficientnet_unet": {
        "encoder": "efficientnet_lite0",
        "stages": 4,
        "width": 24,
        "detail": 8,
        "dropout": 0.0,
    },
    "efficientnet_deeplab": {
        "encoder": "efficientnet_lite0",
        "stages": 4,
        "width": 96,
        "dilations": (1, 2, 4),
        "detail": 8,
        "dropout": 0.0,
    },
    "vgg16_unet": {"linear_decoder": True, "input_scaling": "plain"},
    "deeplabv3plus": {
        "encoder": "resnet50",
        "output_stride": 16,
        "image_pooling": True,
        "input_scaling": "plain",
    },
    "resnet_unet": {"encoder": "resnet34", "input_scaling": "plain"},
    "defectsegnet": {"layers": "", "norm_place": "after", "dropout": 0.0},
    "smp": {"architecture": "Unet", "encoder": "resnet34", "input_scaling": "plain"},
    "timm": {"encoder": "resnet34", "input_scaling": "plain"},
}
"""The options of each architecture, and their defaults."""

# A file of layers has a line each; the original's has 20.
_MAX_LAYERS_BYTES = 1 << 16


class ModelSettings(Frozen):
    """Which architecture, and its options. An option that is not given is None here and has the architecture's default.

    Without a name it is `efficientnet_unet` from ImageNet's weights, or `resunet` where `depth` or `dilations` is given.

    Example:
        >>> ModelSettings().name, ModelSettings().start, ModelSettings(weights="scratch").start
        ('efficientnet_unet', 'imagenet', None)
        >>> ModelSettings(depth=3).name, ModelSettings(depth=3).options["width"]
        ('resunet', 24)
        >>> ModelSettings(name="vgg16_unet", width=24)
        Traceback (most recent call last):
            ...
        pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelSettings
        ...`vgg16_unet` has no option width; its options are linear_decoder, input_scaling...
    """

    name: Architecture = Field(
        default="efficientnet_unet",
        description="default: efficientnet_unet, or resunet where depth or dilations is given",
    )
    weights: str | None = Field(
        default=None,
        description="weights to start from: a file, URL or checkpoint folder (ImageNet's or MicroNet's for an encoder), or "
        "imagenet for those of the extra `pretrained` (efficientnet_unet, efficientnet_deeplab; their default), or scratch",
    )
    width: int | None = Field(
        default=None,
        ge=1,
        description="unet: channels of the first level, doubled at each level; resunet, efficientnet_unet: at half "
        "resolution; efficientnet_deeplab: at a quarter",
    )
    depth: int | None = Field(default=None, ge=1, le=7, description="number of poolings")
    norm: Literal["batch", "group", "instance", "none", "pool"] | None = Field(
        default=None,
        description="unet; pool: a batch norm after each pooling only, group and instance see the whole tile",
    )
    dropout: float | None = Field(default=None, ge=0, lt=1)
    activation: Literal["relu", "elu"] | None = Field(default=None, description="unet")
    dropout_place: Literal["after", "between"] | None = Field(
        default=None, description="unet: whole channels after each pair of convolutions, or values between the two"
    )
    dilations: tuple[PositiveInt, ...] | None = Field(
        default=None,
        description="resunet: dilation of each block of the coarsest level, efficientnet_deeplab: of each branch; sets how "
        "far the model sees",
    )
    detail: int | None = Field(
        default=None, ge=1, description="resunet, efficientnet_*: channels of the path of full resolution"
    )
    stages: int | None = Field(
        default=None,
        ge=2,
        le=5,
        description="efficientnet_*: stages of the encoder, each of half the resolution; fewer see less far and are faster",
    )
    encoder: str | None = Field(
        default=None,
        description="efficientnet_*: efficientnet_lite0, _lite1, _lite2; deeplabv3plus: resnet50, resnet101; resnet_unet: "
        "also resnet18, resnet34; smp, timm: theirs",
    )
    output_stride: Literal[8, 16] | None = Field(default=None, description="deeplabv3plus: stride of the encoder")
    image_pooling: bool | None = Field(
        default=None, description="deeplabv3plus: look at the whole tile as well, so that stitching is not exact"
    )
    linear_decoder: bool | None = Field(default=None, description="vgg16_unet: no ReLU in the decoder, as the original")
    input_scaling: Literal["plain", "imagenet", "caffe"] | None = Field(
        default=None,
        description="what the encoder's weights were trained on; default: imagenet with weights, else plain",
    )
    layers: str | None = Field(
        default=None, max_length=_MAX_LAYERS_BYTES, description="defectsegnet: the text of an architecture file"
    )
    architecture_file: str | None = Field(
        default=None, description="defectsegnet: an architecture file; read into layers"
    )
    norm_place: Literal["after", "before", "none"] | None = Field(
        default=None, description="defectsegnet: batch norms after the activations, before them, or none"
    )
    architecture: str | None = Field(default=None, description="smp: Unet, UnetPlusPlus, FPN, DeepLabV3Plus ...")

    @model_validator(mode="before")
    @classmethod
    def _named_by_its_options(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("name") is not None:
            return values
        named = any(values.get(option) is not None for option in _OPTIONS_OF_RESUNET)
        return {key: value for key, value in values.items() if key != "name"} | ({"name": "resunet"} if named else {})

    @model_validator(mode="before")
    @classmethod
    def _read_layers(cls, values: Any) -> Any:
        # The text and not the path: a worker or a checkpoint may be where the file is not.
        if not isinstance(values, dict) or values.get("architecture_file") is None:
            return values
        path = Path(str(values["architecture_file"]))
        try:
            with path.open(encoding="utf-8") as handle:
                text = handle.read(_MAX_LAYERS_BYTES + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"architecture_file {path}: cannot be read ({error})") from error
        if values.get("layers") not in (None, text):
            raise ValueError("give either layers or architecture_file, not both")
        return {**values, "architecture_file": None, "layers": text}

    @field_validator("weights")
    @classmethod
    def _findable(cls, value: str | None) -> str | None:
        # A worker may run in another folder.
        named = value in {None, IMAGENET, SCRATCH} or "://" in str(value)
        return value if named else str(Path(str(value)).absolute())

    @model_validator(mode="after")
    def _options_are_known(self) -> Self:
        known = OPTIONS[self.name]
        for option in type(self).model_fields:
            if option not in known and option not in {"name", "weights"} and getattr(self, option) is not None:
                raise ValueError(f"`{self.name}` has no option {option}; its options are {', '.join(known)}")
        if self.weights == IMAGENET and not self.name.startswith("efficientnet_"):
            raise ValueError(
                f"weights: no package has ImageNet's for `{self.name}`; give a file, or ./{IMAGENET} for one of that name"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_unset(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # What was not given stays open, so that another name can be put over it with its own defaults.
        return {key: value for key, value in handler(self).items() if value is not None}

    @property
    def start(self) -> str | None:
        """What the weights start from: a file, URL or checkpoint folder, `IMAGENET`, or None for random weights."""
        if self.weights is None:
            return IMAGENET if self.name.startswith("efficientnet_") else None
        return None if self.weights == SCRATCH else self.weights

    @property
    def options(self) -> dict[str, Any]:
        """The architecture's options, all of them, with its defaults for those that were not given.

        Example:
            >>> ModelSettings(name="resnet_unet", weights="resnet34.pth").options
            {'encoder': 'resnet34', 'input_scaling': 'imagenet'}
        """
        defaults = dict(OPTIONS[self.name])
        if self.start is not None and "input_scaling" in defaults:
            defaults["input_scaling"] = "imagenet"
        given = {name: getattr(self, name) for name in defaults}
        return {name: defaults[name] if value is None else value for name, value in given.items()}


class ClassifierSettings(Frozen):
    """Which classifier of whole micrographs, and the size that it sees them at.

    Example:
        >>> ClassifierSettings().options
        {'height': 432, 'width': 288, 'dropout': 0.0}
    """

    name: Literal["coarse_fine"] = "coarse_fine"
    height: int = Field(default=432, ge=46, le=4096, description="pixels that a micrograph is resized to")
    width: int = Field(default=288, ge=46, le=4096)
    dropout: float = Field(default=0.0, ge=0, lt=1, description="before each dense layer")

    @property
    def options(self) -> dict[str, Any]:
        """The architecture's options."""
        return self.model_dump(exclude={"name"})
