"""Settings of `annotate`: where the annotations are, what their names mean, which of them wins where they overlap."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator

from microseg_ray.settings.base import Frozen, JobSettings
from microseg_ray.settings.classes import IGNORE_INDEX, Classes
from microseg_ray.settings.source import SourceSettings

__all__ = ["IGNORE", "PRESETS", "AnnotateSettings", "AnnotationFormat", "ThresholdRule"]

IGNORE = "ignore"
"""In place of a class name: these pixels become the ignore index, 255."""

_BACKGROUND = "background"
AnnotationFormat = Literal[
    "auto",
    "via",
    "labelme",
    "coco",
    "cvat",
    "cvat_mask",
    "geojson",
    "imagej",
    "colors",
    "thresholds",
    "index",
    "tfrecord",
]


class ThresholdRule(Frozen):
    """Intensities of one class, between an open or closed bound on either side; a side without a bound has no end.

    Example:
        >>> ThresholdRule(name="glowing", above=91, below=101.01).below
        101.01
    """

    name: str = Field(min_length=1, description="class")
    above: float | None = None
    at_least: float | None = None
    below: float | None = None
    at_most: float | None = None

    @model_validator(mode="after")
    def _one_bound_a_side(self) -> Self:
        if None not in {self.above, self.at_least} or None not in {self.below, self.at_most}:
            raise ValueError(f"rule for {self.name}: give above or at_least, and below or at_most, not both of a pair")
        low = self.at_least if self.above is None else self.above
        high = self.at_most if self.below is None else self.below
        if low is not None and high is not None and not low <= high:
            raise ValueError(f"rule for {self.name}: nothing lies above {low} and below {high}")
        return self


_CCD_CLASSES = (
    {"name": "background", "color": "#000000"},
    {"name": "glowing", "color": "#59ff40"},
    {"name": "hot pixel", "color": "#0080ff"},
    {"name": "cluster", "color": "#ff3333"},
)


def _ccd(*rules: dict[str, Any], other: str = IGNORE) -> dict[str, Any]:
    return {"format": "thresholds", "classes": _CCD_CLASSES, "thresholds": rules, "channel": "mean", "other": other}


PRESETS: dict[str, dict[str, Any]] = {
    # docs/annotations.md says what each was mended in.
    "fractography": {
        "format": "via",
        "attribute": "name",
        "classes": (
            {"name": "background", "color": "#000000"},
            {"name": "transgranular", "color": "#00fa00"},
            {"name": "intergranular", "color": "#0000fa"},
        ),
        "class_values": {"i": "intergranular", "t": "transgranular"},
        "priority": ("intergranular", "transgranular"),
    },
    "ccd_v0": _ccd(
        {"name": "background", "below": 53.01},
        {"name": "glowing", "above": 91, "below": 101.01},
        {"name": "hot pixel", "above": 78},
        other="cluster",
    ),
    "ccd_v1": _ccd(
        {"name": "background", "below": 51.01},
        {"name": "glowing", "above": 99.99, "below": 101.01},
        {"name": "hot pixel", "above": 124},
        {"name": "cluster", "above": 59, "below": 120.1},
    ),
    "ccd_v2": _ccd(
        {"name": "background", "above": 524.999, "below": 525.001},
        {"name": "glowing", "above": 539.999, "below": 540.001},
        {"name": "hot pixel", "above": 559.999},
        {"name": "cluster", "above": 525.01, "below": 539.99},
    ),
}


class AnnotateSettings(JobSettings):
    """`annotate`: what people drew, in any tool's format -> a mask per micrograph."""

    job: ClassVar[str] = "annotate"
    in_object_stores: ClassVar[frozenset[str]] = frozenset({"annotations", "images", "output", "source.pixel_sizes"})
    preset: Literal["fractography", "ccd_v0", "ccd_v1", "ccd_v2"] | None = Field(
        default=None, description="rules of an earlier system; what is given besides wins over the preset"
    )
    images: str | None = Field(default=None, description="folder, glob or file of micrographs")
    annotations: str | None = Field(
        default=None, description="file, folder or glob of annotations; thresholds use the micrographs by default"
    )
    format: AnnotationFormat = "auto"
    output: str = Field(description="folder of the masks and of report.json")
    classes: Classes = ()
    image_suffix: str = ""
    mask_suffix: str = ""
    annotation_suffix: str = Field(
        default="", description="what an annotation's stem has more than the micrograph's, as in NAME_mask.tif"
    )
    attribute: str | None = Field(default=None, description="which attribute of a region holds its class")
    class_values: dict[str, str] = Field(
        default_factory=dict, description="value in the annotations: class name, or ignore"
    )
    default_class: str | None = Field(
        default=None,
        description="class of every drawn region whose value is neither a class nor in class_values, or ignore",
    )
    priority: tuple[str, ...] = Field(
        default=(), description="classes, strongest first, for overlaps; without it the later region wins"
    )
    unlabelled: str = Field(
        default=_BACKGROUND, description="pixels in no region: background (class 0), ignore, a class"
    )
    empty: Literal["skip", "unlabelled"] = Field(
        default="skip", description="a micrograph without regions gets no mask, or one that is unlabelled throughout"
    )
    line_width: float = Field(default=1.0, ge=1, le=1000, description="px, of lines whose format says no width")
    coordinates: Literal["auto", "centre", "corner"] = Field(
        default="auto", description="whether (0, 0) is the centre or the outer corner of the first pixel"
    )
    colors: dict[str, str] = Field(default_factory=dict, description="#rrggbb: class name, or ignore")
    thresholds: tuple[ThresholdRule, ...] = Field(default=(), description="rules in order; the first that fits wins")
    channel: Literal["mean", "red", "green", "blue"] = Field(default="mean", description="what thresholds look at")
    other: str = Field(default=IGNORE, description="pixels that fit no colour or no threshold: ignore, or a class")
    offset: int = Field(
        default=0, ge=-255, le=255, description="added to the numbers of an index image; -1 where they start at 1"
    )
    strict: bool = Field(default=False, description="exit 1 where anything was left out, unknown or clipped")
    overwrite: bool = False
    source: SourceSettings = SourceSettings()

    @model_validator(mode="before")
    @classmethod
    def _with_preset(cls, values: Any) -> Any:
        preset = PRESETS.get(str(values.get("preset")), {}) if isinstance(values, dict) else {}
        return {**preset, **values} if preset else values

    @field_validator("colors")
    @classmethod
    def _are_colors(cls, value: dict[str, str]) -> dict[str, str]:
        for color in value:
            digits = color.removeprefix("#")
            if len(digits) != 6 or len(color) != 7 or set(digits.lower()) - set("0123456789abcdef"):
                raise ValueError(f"{color!r} is no colour; write it as '#rrggbb', in quotes")
        lower = {color.lower(): name for color, name in value.items()}
        if len(lower) < len(value):
            raise ValueError("a colour is here twice")
        return lower

    @model_validator(mode="after")
    def _names_exist(self) -> Self:
        if not self.classes:
            raise ValueError("classes: missing; put `classes: [background, ...]` into the config, or give a preset")
        if self.images is None and self.format != "tfrecord":
            raise ValueError("images: missing; give --images or put `images:` under `data:` in the config")
        names = {item.name for item in self.classes}
        used = {
            "class_values": {*self.class_values.values()} - {IGNORE},
            "default_class": {self.default_class or IGNORE} - {IGNORE},
            "priority": {*self.priority},
            "colors": {*self.colors.values()} - {IGNORE},
            "thresholds": {rule.name for rule in self.thresholds} - {IGNORE},
            "other": {self.other} - {IGNORE},
            "unlabelled": {self.unlabelled} - {IGNORE, _BACKGROUND},
        }
        for key, wanted in used.items():
            if wanted - names:
                raise ValueError(f"{key}: no class {min(wanted - names)!r}; classes are {', '.join(sorted(names))}")
        if len(set(self.priority)) < len(self.priority):
            raise ValueError("priority: a class is here twice")
        if self.format == "thresholds" and not self.thresholds:
            raise ValueError("thresholds: missing; format thresholds needs rules such as {name: pore, below: 40}")
        if self.annotations is None and self.format != "thresholds" and not (self.format == "auto" and self.thresholds):
            raise ValueError("annotations: missing; give --annotations FILE or FOLDER")
        return self

    @property
    def codes(self) -> dict[str, int]:
        """Class name: index in the mask; and `ignore`: 255."""
        return {IGNORE: IGNORE_INDEX, **{item.name: index for index, item in enumerate(self.classes)}}

    @property
    def unlabelled_code(self) -> int:
        """What a pixel in no region becomes."""
        codes = self.codes
        return codes.get(self.unlabelled, 0)
