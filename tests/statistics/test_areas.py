"""Counts to areas: arithmetic, missing values, and tables that are whole."""

from __future__ import annotations

import csv
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from microseg_ray.settings import ClassSpec
from microseg_ray.statistics import rows as table_rows
from microseg_ray.statistics.areas import AREA_SCHEMA, AreaRow, AreaTable, Measured, area_rows, write_areas

if TYPE_CHECKING:
    from pathlib import Path

CLASSES = (ClassSpec(name="matrix"), ClassSpec(name="pore, open"), ClassSpec(name='"grain"'))
SIZES = st.none() | st.tuples(st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))


def measured(counts: list[int], size: tuple[float, float] | None = None) -> Measured:
    return Measured("deep/a b.tif", np.array(counts, np.int64), size, "option" if size else "", "f00d")


@given(st.lists(st.integers(0, 10**11), min_size=3, max_size=3), SIZES)
def test_areas_equal_exact_arithmetic(counts: list[int], size: tuple[float, float] | None) -> None:
    rows = area_rows(measured(counts, size), CLASSES)
    total = sum(counts)
    assert [row.pixel_count for row in rows] == counts
    assert [row.class_index for row in rows] == [0, 1, 2]
    assert [row.class_name for row in rows] == [item.name for item in CLASSES]
    for row, count in zip(rows, counts, strict=True):
        assert row.measured_pixel_count == total
        assert row.area_fraction == (None if total == 0 else pytest.approx(float(Fraction(count, total)), rel=1e-12))
        if size is None:
            assert row.area_um2 is None
            assert row.pixel_size_um_y is None
            assert row.pixel_size_um_x is None
        else:
            exact = count * Fraction(size[0]) * Fraction(size[1])
            assert row.area_um2 == pytest.approx(float(exact), rel=1e-12)
            assert (row.pixel_size_um_y, row.pixel_size_um_x) == size
    if total:
        assert sum(row.area_fraction or 0 for row in rows) == pytest.approx(1)


def test_counts_must_fit_the_classes() -> None:
    with pytest.raises(ValueError, match="zip"):
        area_rows(measured([1, 2]), CLASSES)


def test_rows_hold_plain_numbers() -> None:
    row = area_rows(measured([1, 2, 3], (1.0, 1.0)), CLASSES)[1]
    assert type(row.pixel_count) is int
    assert type(row.measured_pixel_count) is int
    assert type(row.area_fraction) is float
    assert type(row.area_um2) is float


def test_both_tables_hold_the_rows_and_empty_cells_where_nothing_is_known(tmp_path: Path) -> None:
    rows = [*area_rows(measured([1, 2, 1], (0.5, 0.25)), CLASSES), *area_rows(measured([0, 0, 0]), CLASSES)]
    write_areas(tmp_path, rows)
    table = pq.read_table(tmp_path / "areas.parquet")
    assert table.schema == AREA_SCHEMA
    assert [AreaRow(**row) for row in table.to_pylist()] == rows
    with (tmp_path / "areas.csv").open(newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == AREA_SCHEMA.names
    assert lines[1]["class_name"] == "pore, open"
    assert lines[2]["class_name"] == '"grain"'
    assert float(lines[1]["area_fraction"]) == 0.5
    assert float(lines[1]["area_um2"]) == 0.25
    assert lines[3]["area_fraction"] == lines[3]["area_um2"] == lines[3]["pixel_size_um_y"] == ""
    assert lines[3]["pixel_count"] == "0"


def test_equal_rows_make_equal_bytes_and_no_rows_make_a_table(tmp_path: Path) -> None:
    rows = area_rows(measured([1, 2, 1], (0.1, 0.3)), CLASSES)
    written = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_areas(tmp_path / name, iter(rows))
        written.append([(tmp_path / name / file).read_bytes() for file in ("areas.csv", "areas.parquet")])
    assert written[0] == written[1]
    write_areas(tmp_path, [])
    assert pq.read_table(tmp_path / "areas.parquet").num_rows == 0
    assert (tmp_path / "areas.csv").read_text(encoding="utf-8").startswith('"micrograph"')


def test_batches_do_not_show(tmp_path: Path, monkeypatch) -> None:
    rows = [row for number in range(9) for row in area_rows(measured([number, 2, 1]), CLASSES)]
    written = []
    for size in (1 << 14, 4, 9):
        monkeypatch.setattr(table_rows, "BATCH_ROWS", size)
        write_areas(tmp_path, iter(rows))
        assert [AreaRow(**row) for row in pq.read_table(tmp_path / "areas.parquet").to_pylist()] == rows
        written.append((tmp_path / "areas.csv").read_bytes())
    assert len(set(written)) == 1


def test_tables_are_written_whole_or_not_at_all(tmp_path: Path, monkeypatch) -> None:
    write_areas(tmp_path, area_rows(measured([1, 2, 1]), CLASSES))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(before) == {"areas.csv", "areas.parquet"}

    def killed(*_arguments: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", killed)
    with pytest.raises(OSError, match="No space"):
        write_areas(tmp_path, area_rows(measured([5, 5, 5]), CLASSES))
    assert all((tmp_path / name).read_bytes() == raw for name, raw in before.items())


@given(
    counts=st.lists(st.integers(0, 9), max_size=12),
    start=st.none() | st.integers(-40, 40),
    stop=st.none() | st.integers(-40, 40),
    step=st.sampled_from([None, 1, 2, 5, -1, -3]),
)
def test_a_written_table_is_read_as_a_list(tmp_path_factory, counts, start, stop, step) -> None:
    folder = tmp_path_factory.mktemp("areas")
    rows = [row for count in counts for row in area_rows(measured([count, 2, 1], (0.5, 0.25)), CLASSES)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(table_rows, "BATCH_ROWS", 4)
        write_areas(folder, rows)
    table = AreaTable(folder / "areas.parquet")
    assert len(table) == len(rows)
    assert list(table) == rows
    assert table[start:stop:step] == rows[start:stop:step]
    for place in {0, 1, 5, -1, len(rows) - 1, len(rows), -len(rows) - 1}:
        if -len(rows) <= place < len(rows):
            assert table[place] == rows[place]
        else:
            with pytest.raises(IndexError):
                table[place]
