"""The tables of a run's page: areas by micrograph and class, objects, what was quarantined."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from microseg_ray.report.cells import Cell, Column, PageTable, number, pixel_size, shown, size_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["AreaRows", "area_rows", "class_of", "failure_table", "object_table"]

Place = tuple[str, int, int]
"""Of a thumbnail: address of its sheet, x and y of its corner there in pixels."""

_OBJECTS = (
    ("object_count", Column("Objects")),
    ("inside_count", Column("Inside")),
    ("density_per_mm2", Column("Density", unit="1/mm²", decimals=2)),
    ("mean_diameter", Column("Mean diameter", decimals=3)),
    ("number_d10", Column("d10", decimals=3)),
    ("number_d50", Column("d50", decimals=3)),
    ("number_d90", Column("d90", decimals=3)),
    ("area_d50", Column("d50 by area", decimals=3)),
)
"""Columns of `object_classes.csv` on the page."""

_NEEDED = ("micrograph", "pixel_count", "area_fraction")


def class_of(row: Mapping[str, Any]) -> str:
    """The class of a row."""
    return str(row["class"] if "class" in row else row["class_name"])


@dataclass(frozen=True, eq=False)
class AreaRows:
    """The areas of a run.

    Attributes:
        table: A row per micrograph and class.
        classes: A summary per class.
        micrographs: How many micrographs there are.
        uncalibrated: How many of them have no pixel size.
        has_truth: Whether true areas are beside the measured ones.
        has_share: Whether measured shares are known.
        has_scores: Whether it is said how unusual a micrograph is.
        has_intervals: Whether there are intervals.
    """

    table: PageTable
    classes: list[dict[str, Any]]
    micrographs: int
    uncalibrated: int
    has_truth: bool
    has_share: bool
    has_scores: bool
    has_intervals: bool


def area_rows(
    areas: Sequence[Mapping[str, Any]],
    truth: Mapping[tuple[str, str], float] | None,
    scores: Mapping[str, float],
    pictures: Mapping[str, Place],
) -> AreaRows:
    """The table of areas and the summary of each class.

    Args:
        areas: Rows of areas.csv; the keys `low` and `high` are an interval of the area fraction.
        truth: True area fraction by (micrograph, class).
        scores: How unusual a micrograph is.
        pictures: Thumbnail of a micrograph.

    Raises:
        ValueError: A row lacks a required key.
    """
    for place, row in enumerate(areas):
        missing = [key for key in _NEEDED if key not in row]
        missing += ["class"] if not {"class", "class_name"} & row.keys() else []
        if missing:
            raise ValueError(f"areas, row {place}: the key {missing[0]!r} is missing; it has {sorted(row)}")
    rows = [_values(row, truth or {}) for row in areas]
    has_share = any(row["share"] is not None for row in rows)
    has_measured = any(row["measured"] is not None for row in rows)
    has_intervals = any(row["interval"] is not None for row in rows)
    calibrated = any(row["calibrated"] for row in rows)
    columns: dict[str, Column] = {"picture": Column("", "picture")} if pictures else {}
    columns |= {"micrograph": Column("Micrograph", "file"), "class": Column("Class", "class")}
    columns |= {"count": Column("Pixel count")}
    if has_share:
        columns["share"] = Column("Measured share", unit="%", decimals=2, scale=100)
    elif has_measured:
        columns["measured"] = Column("Measured pixels")
    columns["fraction"] = Column("Area fraction", "share", "%", 3, 100)
    if has_intervals:
        columns["interval"] = Column("95 % interval", "interval", "%", 3, 100)
    if truth is not None:
        columns |= {"truth": Column("Truth", unit="%", decimals=3, scale=100)}
        columns |= {"difference": Column("Difference", unit="points", decimals=3, scale=100, signed=True)}
    if calibrated:
        columns |= {"area": Column("Area", unit="µm²", decimals=2), "size": Column("Pixel size", "size", "µm")}
    if scores:
        columns["score"] = Column("Outlier", decimals=1)
    for row in rows:
        row |= {"picture": pictures.get(row["micrograph"]), "score": scores.get(row["micrograph"])}
    table = PageTable(
        "areas",
        "Areas by micrograph and class",
        tuple(columns.values()),
        [tuple(row[name] for name in columns) for row in rows],
    )
    return AreaRows(
        table,
        list(_summaries(rows)),
        len({row["micrograph"] for row in rows}),
        len({row["micrograph"] for row in rows if not row["calibrated"]}),
        truth is not None,
        has_share,
        bool(scores),
        has_intervals,
    )


def _values(row: Mapping[str, Any], truth: Mapping[tuple[str, str], float]) -> dict[str, Any]:
    micrograph, name = str(row["micrograph"]), class_of(row)
    count, fraction = number(row["pixel_count"]), number(row["area_fraction"])
    true = number(truth.get((micrograph, name)))
    size, area = pixel_size(row), number(row.get("area_um2"))
    low, high = number(row.get("low")), number(row.get("high"))
    return {
        "micrograph": micrograph,
        "class": name,
        "count": None if count is None else int(count),
        "measured": number(row.get("measured_pixel_count")),
        "share": number(row.get("measured_share")),
        "fraction": fraction,
        "interval": None if low is None or high is None else (low, high),
        "truth": true,
        "difference": None if true is None or fraction is None else fraction - true,
        "area": area,
        "size": (size_text(size), str(row.get("pixel_size_source") or "")),
        "calibrated": size is not None or area is not None,
    }


def _summaries(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Summary per class over the micrographs in which it was measured; each micrograph has the same weight."""
    by_class: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_class.setdefault(row["class"], []).append(row)
    for name, own in by_class.items():
        fractions = [row["fraction"] for row in own if row["fraction"] is not None]
        differences = [abs(row["difference"]) for row in own if row["difference"] is not None]
        mean = statistics.fmean(fractions) if fractions else None
        cells: list[Cell] = [
            shown(len(fractions), 0),
            shown(mean, 3, 100),
            shown(statistics.stdev(fractions) if len(fractions) > 1 else None, 3, 100),
            shown(min(fractions, default=None), 3, 100),
            shown(max(fractions, default=None), 3, 100),
        ]
        yield {
            "class": name,
            "fraction": mean,
            "cells": cells,
            "worst": shown(max(differences, default=None), 3, 100),
        }


def object_table(objects: Sequence[Mapping[str, Any]]) -> PageTable:
    """The objects by micrograph and class, of the rows of object_classes.csv."""
    columns = (Column("Micrograph", "file"), Column("Class", "class"), *(column for _, column in _OBJECTS))
    rows = [
        (
            str(row["micrograph"]),
            class_of(row),
            *(number(row.get(name)) for name, _ in _OBJECTS),
            "µm" if row["unit"] == "um" else str(row["unit"]),
        )
        for row in objects
    ]
    return PageTable("objects", "Objects by micrograph and class", (*columns, Column("Unit", "text")), rows)


def failure_table(failures: Sequence[Mapping[str, Any]]) -> PageTable:
    """What was quarantined."""
    columns = (Column("Input", "file"), Column("Stage", "text"), Column("Reason", "text"))
    rows = [tuple(str(row.get(key, "")) for key in ("path", "stage", "reason")) for row in failures]
    return PageTable("failed", "Quarantined inputs", columns, rows)
