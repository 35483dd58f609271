"""What was set aside reads back as it was written."""

import os

from microseg_ray.quarantine import Failure, read_failures, write_failures


def test_failures_read_back(tmp_path):
    found = [Failure('a, "b".tif', "read", "first line\nsecond"), Failure(os.fsdecode(b"\xff.tif"), "read", "µ")]
    write_failures(tmp_path / "failures.csv", found)
    assert sorted(read_failures(tmp_path / "failures.csv"), key=str) == sorted(found, key=str)


def test_the_order_of_the_workers_does_not_show(tmp_path):
    found = [Failure("b", "read", "x"), Failure("a", "shard 0,1", "y"), Failure("a", "shard 0,0", "z")]
    write_failures(tmp_path / "one.csv", found)
    write_failures(tmp_path / "two.csv", found[::-1])
    assert (tmp_path / "one.csv").read_bytes() == (tmp_path / "two.csv").read_bytes()


def test_no_file_means_no_failures(tmp_path):
    assert read_failures(tmp_path / "failures.csv") == []
