"""What was set aside reads back as it was written."""

import os

from microseg_ray.quarantine import Failure, read_failures, write_failures


def test_failures_read_back(tmp_path):
    found = [Failure('a, "b".tif', "read", "first line\nsecond"), Failure(os.fsdecode(b"\xff.tif"), "read", "µ")]
    write_failures(tmp_path / "failures.csv", found)
    assert read_failures(tmp_path / "failures.csv") == found


def test_no_file_means_no_failures(tmp_path):
    assert read_failures(tmp_path / "failures.csv") == []
