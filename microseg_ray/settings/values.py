"""The values that settings are made of: classes, scaling, data, model, optimizer. All frozen, no key unknown."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

__all__ = [
    "IGNORE_INDEX",
    "AuditMode",
    "ClassSpec",
    "Classes",
    "DataSettings",
    "Frozen",
    "PixelSize",
    "RaySettings",
    "Scaling",
    "default_color",
]

IGNORE_INDEX = 255
"""The mask value of a pixel that has no class: not labelled, not measured, or burned-in text."""


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


def _audit_mode(value: Any) -> Any:
    """YAML reads a bare `off` as false."""
    return "off" if value is False else value


AuditMode = Annotated[Literal["stop", "report", "off"], BeforeValidator(_audit_mode)]


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
    `stratify` reads the masks and spreads the classes evenly over the splits that have shares.

    `table` is a CSV or Parquet file with the columns micrograph, mask, group, split and pixel_size_um, in place of `images`
    and `masks`; `microseg catalog` writes one. `audit` says what happens where equal, mirrored, rotated or nearly equal
    micrographs are in different splits.
    """

    images: str | None = None
    masks: str | None = None
    table: str | None = None
    image_suffix: str = ""
    mask_suffix: str = ""
    group: str | None = None
    splits: dict[str, float | tuple[str, ...]] = Field(default_factory=dict)
    stratify: bool = False
    audit: AuditMode = "stop"
    seed: int = 0

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.table is not None and (self.images is not None or self.masks is not None):
            raise ValueError(f"data.table {self.table!r} stands in place of images and masks; give one or the other")
        return self

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
