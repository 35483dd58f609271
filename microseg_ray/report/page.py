"""The HTML page of a run: one self-contained file.

This module knows no run: its input is numbers and thumbnails. Numbers are shown rounded and stored unrounded beside
them (`data-value`), all text is escaped, and the page loads no other resource.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
import numpy as np
from PIL import Image

from microseg_ray.figures.pictures import (
    IGNORE_COLOR,
    class_palette,
    data_uri,
    length_text,
    overlay,
    scale_bar_um,
    stretched,
)
from microseg_ray.files import whole
from microseg_ray.report.doubt import doubt_of
from microseg_ray.report.rows import area_rows, class_of, failure_table, object_table
from microseg_ray.report.statistics import PageStatistics
from microseg_ray.report.thumbnails import SIDE
from microseg_ray.report.uncertain import HOW_TO_GET, Place, Places
from microseg_ray.settings import IGNORE_INDEX, ClassSpec, default_color

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from microseg_ray.files import Where
    from microseg_ray.report.methods import Methods
    from microseg_ray.report.provenance import Step

__all__ = ["Panel", "RunReport", "write_run_report"]

_LONG_TEXT = 100
_DIGEST = re.compile(r"[0-9a-f]{32,128}")


@dataclass(frozen=True, eq=False)
class Panel:
    """One micrograph on the page: image, mask and overlay side by side.

    Attributes:
        name: The micrograph's name, as in the table of areas.
        image: (y, x), (1, y, x) or (3, y, x), any numeric type, already downsampled; its contrast is stretched for display.
        mask: uint8 (y, x) of the same height and width; class indices, 255 where nothing was measured.
        classes: Names and colours by index.
        pixel_size_um: (y, x) of the downsampled pixels in micrometres; None for no scale bar.

    Raises:
        ValueError: Shapes do not match, or a mask value is no class.

    Example:
        >>> classes = (ClassSpec(name="matrix"), ClassSpec(name="pore"))
        >>> Panel("a.tif", np.zeros((4, 6)), np.ones((4, 6), np.uint8), classes, None).shape
        (4, 6)
    """

    name: str
    image: NDArray[Any]
    mask: NDArray[np.uint8]
    classes: tuple[ClassSpec, ...]
    pixel_size_um: tuple[float, float] | None

    def __post_init__(self) -> None:
        if self.image.ndim not in (2, 3) or (self.image.ndim == 3 and self.image.shape[0] not in (1, 3)):
            raise ValueError(f"panel {self.name!r}: image {self.image.shape} is not (y, x), (1, y, x) or (3, y, x)")
        if self.mask.dtype != np.uint8 or self.mask.shape != self.shape or 0 in self.shape:
            raise ValueError(
                f"panel {self.name!r}: mask {self.mask.dtype} {self.mask.shape} must be uint8 {self.shape}, not empty"
            )
        strange = [value for value in np.unique(self.mask) if len(self.classes) <= value != IGNORE_INDEX]
        if strange:
            raise ValueError(f"panel {self.name!r}: mask value {strange[0]} is none of {len(self.classes)} classes")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the downsampled micrograph."""
        return self.image.shape[-2], self.image.shape[-1]


@dataclass(frozen=True, eq=False)
class RunReport:
    """Content of the page.

    Attributes:
        title: Heading of the page.
        identity: Identity of the run, in display order: model digest, verdict, settings, versions, date. Hexadecimal
            digests are also shown shortened; the key `verdict` is also shown as a badge.
        areas: A row per micrograph and class, as in `areas.csv`. Required keys: `micrograph`, `class` (or
            `class_name`), `pixel_count`, `area_fraction`. Optional: `measured_share` (0 to 1; without it,
            `measured_pixel_count` is shown), `area_um2`, `pixel_size_um` (y, x) or `pixel_size_um_y` and
            `pixel_size_um_x`, `pixel_size_source`, `low` and `high` (interval of the area fraction). None, NaN and "" mean
            unknown. Other keys are ignored.
        failures: Quarantined inputs with the keys `path`, `stage`, `reason`.
        panels: Micrographs to show.
        truth: True area fraction by (micrograph, class), shown beside the measured one; None to leave these columns out.
        objects: A row per micrograph and class, as in `object_classes.csv`; empty where objects were not measured.
        methods: Paragraph and citations for a paper; None to leave them out.
        statistics: Tables with intervals and plots; empty where they were not measured.
        scores: How unusual each micrograph is; empty to leave the column out.
        thumbnails: Sheet, x and y of the thumbnail of a micrograph; the sheets lie beside the page.
        places: Where the run is least certain; None to leave the section out.
        classes: Names and colours by index, for the places.
        provenance: Who made what.

    Example:
        >>> RunReport("Run a", identity={"verdict": "exact"}).areas
        []
    """

    title: str
    identity: dict[str, str] = field(default_factory=dict)
    areas: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    truth: dict[tuple[str, str], float] | None = None
    objects: list[dict[str, Any]] = field(default_factory=list)
    statistics: PageStatistics = field(default_factory=PageStatistics)
    methods: Methods | None = None
    scores: Mapping[str, float] = field(default_factory=dict)
    thumbnails: Mapping[str, tuple[str, int, int]] = field(default_factory=dict)
    places: Places | None = None
    classes: tuple[ClassSpec, ...] = ()
    provenance: tuple[Step, ...] = ()


def _class_colors(report: RunReport) -> dict[str, str]:
    """The colour of each class in the report."""
    colors = {
        spec.name: spec.color or default_color(index)
        for classes in (report.classes, *(panel.classes for panel in report.panels))
        for index, spec in enumerate(classes)
    }
    names = dict.fromkeys(class_of(row) for row in (*report.areas, *report.objects))
    return {name: default_color(index) for index, name in enumerate(names)} | colors


def _first_word(text: str) -> str:
    word = re.match(r"\W*(\w*)", text)
    return word[1].lower() if word else ""


def _identity_rows(identity: Mapping[str, str]) -> list[dict[str, Any]]:
    rows = []
    for key, value in identity.items():
        text = str(value)
        digest = _DIGEST.fullmatch(text.removeprefix("sha256:")) is not None
        rows.append(
            {
                "key": str(key),
                "value": text,
                "short": text.removeprefix("sha256:")[:12] if digest else "",
                "long": not digest and ("\n" in text or len(text) > _LONG_TEXT),
                "verdict": _first_word(text) if str(key).lower() == "verdict" else "",
            }
        )
    return rows


def _panel_view(panel: Panel) -> dict[str, Any]:
    """Template values of a panel; made lazily, so that only one panel's images are in memory."""
    palette = class_palette(panel.classes)
    gray = stretched(panel.image)
    colored = Image.fromarray(panel.mask)
    colored.putpalette(palette.tobytes())
    legend = [(spec.name, "#" + palette[index].tobytes().hex()) for index, spec in enumerate(panel.classes)]
    if IGNORE_INDEX in panel.mask:
        legend.append(("not measured", IGNORE_COLOR))
    height, width = panel.shape
    size = panel.pixel_size_um
    bar = None if size is None else scale_bar_um(width, size[1])
    return {
        "name": panel.name,
        "legend": legend,
        # Non-square pixels are displayed in their true proportions.
        "ratio": f"{width * size[1]:.6g} / {height * size[0]:.6g}" if size else f"{width} / {height}",
        "bar": None if bar is None or size is None else f"{100 * bar / (width * size[1]):.4g}%",
        "bar_text": "" if bar is None else length_text(bar),
        "views": (
            ("Micrograph", "micrograph", data_uri(Image.fromarray(gray), "JPEG")),
            ("Mask", "mask, one colour per class", data_uri(colored, "PNG")),
            (
                "Overlay",
                "micrograph tinted by class",
                data_uri(Image.fromarray(overlay(gray, panel.mask, palette)), "JPEG"),
            ),
        ),
    }


def _place_view(place: Place, kind: str, classes: tuple[ClassSpec, ...]) -> dict[str, Any]:
    """Template values of one of the least certain places: micrograph, mask over it, doubt over it."""
    shape = place.mask.shape
    gray = np.full((*shape, 3), 128, np.uint8) if place.image is None else stretched(_shown(place.image))
    doubt = np.nan_to_num(doubt_of(place.map, kind))[..., None]
    hot = np.stack([np.full(shape, 255.0), 230 * (1 - doubt[..., 0]), np.zeros(shape)], axis=-1)
    pictures = (
        ("micrograph", gray),
        ("mask over the micrograph", overlay(gray, place.mask, class_palette(classes))),
        (
            f"{kind}: what is uncertain is yellow to red",
            np.asarray(np.rint(gray * (1 - doubt) + hot * doubt), np.uint8),
        ),
    )
    size, width = place.pixel_size_um, place.box.width
    bar = None if size is None else scale_bar_um(width, size[1])
    return {
        "micrograph": place.micrograph,
        "where": f"y {place.box.y0} to {place.box.y1}, x {place.box.x0} to {place.box.x1} px",
        "doubt": f"{place.doubt:.3f}",
        "ratio": f"{width} / {place.box.height}",
        "bar": None if bar is None or size is None else f"{100 * bar / (width * size[1]):.4g}%",
        "bar_text": "" if bar is None else length_text(bar),
        "gone": place.image is None,
        "views": [(what, data_uri(Image.fromarray(pixels), "JPEG")) for what, pixels in pictures],
    }


def _shown(image: NDArray[Any]) -> NDArray[Any]:
    """The channels of a micrograph that are shown."""
    return image[:3] if len(image) >= 3 else image[:1]


@cache
def _template() -> jinja2.Template:
    source = (Path(__file__).parent / "templates" / "report.html").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source)


def write_run_report(page: Where, report: RunReport) -> None:
    """Write the page of a run as one self-contained HTML file.

    Args:
        page: File to write; an older one is replaced atomically.
        report: Content of the page.

    Raises:
        ValueError: A row of areas lacks a required key.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> row = {"micrograph": "a.tif", "class": "pore", "pixel_count": 12, "area_fraction": 0.125}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_run_report(Path(folder) / "report.html", RunReport("Run a", areas=[row]))
        ...     "12.500" in (Path(folder) / "report.html").read_text("utf-8")
        True
    """
    areas = area_rows(report.areas, report.truth, report.scores, report.thumbnails)
    places, page_places = report.places, report.places or Places()
    shown = {panel.name: f"panel-{place}" for place, panel in enumerate(report.panels, 1)}
    parts = _template().generate(
        title=report.title,
        identity=_identity_rows(report.identity),
        areas=areas,
        summaries=areas.classes,
        colors=_class_colors(report),
        micrographs=areas.micrographs,
        failures=failure_table(report.failures),
        anchors=shown,
        objects=object_table(report.objects),
        statistics=report.statistics,
        methods=report.methods,
        panels=(_panel_view(panel) for panel in report.panels),
        places=(_place_view(each, page_places.kind, report.classes) for each in page_places.found),
        places_of=places,
        how_to_get=HOW_TO_GET,
        provenance=report.provenance,
        side=SIDE,
        thumbnails=bool(report.thumbnails),
        calibrated=areas.uncalibrated < areas.micrographs,
        uncalibrated=areas.uncalibrated,
    )
    with whole(page) as partial, partial.open("wb") as file:
        for part in parts:
            # File names that are not UTF-8 contain lone surrogates, which cannot be encoded.
            file.write(part.encode("utf-8", "replace"))
