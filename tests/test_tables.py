"""Tables are written under any name and read back."""

import os

import numpy as np

from microseg_ray import tables
from microseg_ray.quarantine import Failure, read_failures, write_failures


def test_a_name_as_long_as_the_file_system_takes(tmp_path):
    name = "x" * 251 + ".csv"
    tables.write_csv(tmp_path / name, ("a",), [(1,)])
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_name_that_is_not_utf8(tmp_path):
    name = os.fsdecode(b"\xff.csv")
    tables.write_csv(tmp_path / name, ("name",), [(name,)])
    assert (tmp_path / name).read_bytes() == b"name\n\xff.csv\n"


def test_tables_read_back(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"name": ["a, b", "µ"], "count": np.arange(2)})
    tables.write_parquet(tmp_path / "t.parquet", table)
    tables.write_arrow_csv(tmp_path / "t.csv", table)
    assert pq.read_table(tmp_path / "t.parquet").to_pylist() == table.to_pylist()
    assert (tmp_path / "t.csv").read_text() == '"name","count"\n"a, b",0\n"µ",1\n'


def test_names_that_look_like_formulas_come_back_as_they_are(tmp_path):
    """Decision 0165: the names are keys, so that nothing is put in front of them."""
    names = ["=1+1.tif", "+a.tif", "-a.tif", "@SUM(A1).tif", "\ta.tif", "\ra.tif", "'=a.tif"]
    write_failures(tmp_path / "failures.csv", [Failure(name, "read", "=2+2") for name in names])
    assert [failure.path for failure in read_failures(tmp_path / "failures.csv")] == sorted(names)
