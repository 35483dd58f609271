"""The HTML page of a run: one self-contained file.

This module knows no run: its input is numbers and thumbnails. Numbers are shown rounded and stored unrounded beside
them (`data-value`), all text is escaped, and the page loads no other resource.
"""

from __future__ import annotations

import math
import re
import statistics
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
from microseg_ray.report.statistics import PageStatistics
from microseg_ray.settings import IGNORE_INDEX, ClassSpec, default_color

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from microseg_ray.report.methods import Methods

__all__ = ["Panel", "RunReport", "write_run_report"]

_NONE = "–"  # noqa: RUF001 - the dash of tables
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
            `pixel_size_um_x`, `pixel_size_source`. None, NaN and "" mean unknown. Other keys are ignored.
        failures: Quarantined inputs with the keys `path`, `stage`, `reason`.
        panels: Micrographs to show.
        truth: True area fraction by (micrograph, class), shown beside the measured one; None to leave these columns out.
        objects: A row per micrograph and class, as in `object_classes.csv`; empty where objects were not measured.
        methods: Paragraph and citations for a paper; None to leave them out.
        statistics: Tables with intervals and plots; empty where they were not measured.

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


_OBJECT_CELLS = (
    ("object_count", 0),
    ("inside_count", 0),
    ("density_per_mm2", 2),
    ("mean_diameter", 3),
    ("number_d10", 3),
    ("number_d50", 3),
    ("number_d90", 3),
    ("area_d50", 3),
)
"""Columns of `object_classes.csv` on the page, and their decimals."""


def _number(value: Any) -> float | None:
    """A number of a table row, or None for None, NaN and empty text."""
    if value is None or value == "":
        return None
    number = float(value)
    return None if math.isnan(number) else number


@dataclass(frozen=True)
class _Cell:
    """A table cell: groups of digits for display, and the unrounded number for sorting."""

    groups: tuple[str, ...]
    value: str = ""


def _cell(value: float | None, decimals: int, scale: float = 1.0, *, signed: bool = False) -> _Cell:
    if value is None:
        return _Cell((_NONE,))
    # Digits are grouped by markup, without separators, so that a copied number can be parsed.
    text = f"{value * scale:{'+' if signed else ''},.{decimals}f}".replace("-", "\N{MINUS SIGN}")
    return _Cell(tuple(text.split(",")), repr(value))


def _pixel_size(row: Mapping[str, Any]) -> tuple[float, float] | None:
    """(y, x) in micrometres, from one key or from two."""
    pair = row.get("pixel_size_um") or (row.get("pixel_size_um_y"), row.get("pixel_size_um_x"))
    y, x = (_number(side) for side in pair)
    return None if y is None or x is None else (y, x)


def _size_text(size: tuple[float, float] | None) -> str:
    """A pixel size as text: one number if both are equal."""
    if size is None:
        return _NONE
    y, x = size
    return f"{x:.6g}" if math.isclose(x, y, rel_tol=1e-9) else f"{y:.6g} x {x:.6g} (y, x)"


def _class_of(row: Mapping[str, Any]) -> str:
    return str(row["class"] if "class" in row else row["class_name"])


def _class_colors(report: RunReport) -> dict[str, str]:
    """The colour of each class in the report."""
    colors = {
        spec.name: spec.color or default_color(index)
        for panel in report.panels
        for index, spec in enumerate(panel.classes)
    }
    names = dict.fromkeys(_class_of(row) for row in (*report.areas, *report.objects))
    return {name: default_color(index) for index, name in enumerate(names)} | colors


def _area_rows(report: RunReport) -> list[dict[str, Any]]:
    rows = []
    for place, row in enumerate(report.areas):
        missing = [key for key in ("micrograph", "pixel_count", "area_fraction") if key not in row]
        missing += ["class"] if not {"class", "class_name"} & row.keys() else []
        if missing:
            raise ValueError(f"areas, row {place}: the key {missing[0]!r} is missing; it has {sorted(row)}")
        micrograph, name = str(row["micrograph"]), _class_of(row)
        count, fraction = _number(row["pixel_count"]), _number(row["area_fraction"])
        truth = _number((report.truth or {}).get((micrograph, name)))
        difference = None if truth is None or fraction is None else fraction - truth
        pixel_size = _pixel_size(row)
        rows.append(
            {
                "micrograph": micrograph,
                "class": name,
                "fraction": fraction,
                "difference": difference,
                "calibrated": pixel_size is not None or _number(row.get("area_um2")) is not None,
                "pixel_size": _size_text(pixel_size),
                "count_cell": _cell(None if count is None else int(count), 0),
                "pixel_size_source": str(row.get("pixel_size_source") or ""),
                "measured_cell": _cell(_number(row.get("measured_pixel_count")), 0),
                "share_cell": _cell(_number(row.get("measured_share")), 2, 100),
                "fraction_cell": _cell(fraction, 3, 100),
                "area_cell": _cell(_number(row.get("area_um2")), 2),
                "truth_cell": _cell(truth, 3, 100),
                "difference_cell": _cell(difference, 3, 100, signed=True),
            }
        )
    return rows


def _object_rows(report: RunReport) -> list[dict[str, Any]]:
    return [
        {
            "micrograph": str(row["micrograph"]),
            "class": _class_of(row),
            "unit": "µm" if row["unit"] == "um" else str(row["unit"]),
            "cells": [_cell(_number(row.get(name)), decimals) for name, decimals in _OBJECT_CELLS],
        }
        for row in report.objects
    ]


def _class_summaries(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Summary per class over the micrographs in which it was measured; each micrograph has the same weight."""
    for name in dict.fromkeys(row["class"] for row in rows):
        own = [row for row in rows if row["class"] == name]
        fractions = [row["fraction"] for row in own if row["fraction"] is not None]
        differences = [abs(row["difference"]) for row in own if row["difference"] is not None]
        mean = statistics.fmean(fractions) if fractions else None
        yield {
            "class": name,
            "fraction": mean,
            "cells": [
                _cell(len(fractions), 0),
                _cell(mean, 3, 100),
                _cell(statistics.stdev(fractions) if len(fractions) > 1 else None, 3, 100),
                _cell(min(fractions, default=None), 3, 100),
                _cell(max(fractions, default=None), 3, 100),
            ],
            "worst": _cell(max(differences, default=None), 3, 100),
        }


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


@cache
def _template() -> jinja2.Template:
    source = (Path(__file__).parent / "templates" / "report.html").read_text("utf-8")
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(source)


def write_run_report(page: Path, report: RunReport) -> None:
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
    rows = _area_rows(report)
    shown = {panel.name: f"panel-{place}" for place, panel in enumerate(report.panels, 1)}
    parts = _template().generate(
        title=report.title,
        identity=_identity_rows(report.identity),
        rows=rows,
        summaries=list(_class_summaries(rows)),
        colors=_class_colors(report),
        micrographs=len({row["micrograph"] for row in rows}),
        failures=[{key: str(row.get(key, "")) for key in ("path", "stage", "reason")} for row in report.failures],
        anchors=shown,
        objects=_object_rows(report),
        statistics=report.statistics,
        methods=report.methods,
        panels=(_panel_view(panel) for panel in report.panels),
        has_truth=report.truth is not None,
        has_share=any(row["share_cell"].value for row in rows),
        has_measured=any(row["measured_cell"].value for row in rows),
        calibrated=any(row["calibrated"] for row in rows),
        uncalibrated=len({row["micrograph"] for row in rows if not row["calibrated"]}),
    )
    with whole(page) as partial, partial.open("wb") as file:
        for part in parts:
            # File names that are not UTF-8 contain lone surrogates, which cannot be encoded.
            file.write(part.encode("utf-8", "replace"))
