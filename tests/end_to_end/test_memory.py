"""Law 3: a worker's memory does not grow with the micrograph."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "memory.py"
GIB = 1024**3


def load_benchmark():
    specification = importlib.util.spec_from_file_location("memory_benchmark", BENCHMARK)
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_peak_is_that_of_a_shard_whatever_the_size():
    memory = load_benchmark()
    # Equal runs spread by some percent, as the allocator falls: the median of three is compared, every run is bounded.
    runs = {side: [memory.measure(side, width=4, depth=2, shards=0) for _ in range(3)] for side in (4096, 16384, 32768)}
    peaks = {side: sorted(row["peak"] for row in rows) for side, rows in runs.items()}
    print({side: [round(peak / 2**20) for peak in found] for side, found in peaks.items()})
    assert abs(peaks[32768][1] / peaks[16384][1] - 1) < 0.10
    for row in (row for rows in runs.values() for row in rows):
        assert row["peak"] < row["projected"] < 2 * GIB


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_default_model_stays_under_its_projection_and_two_gib():
    row = load_benchmark().measure(4096, width=32, depth=4, shards=2)
    assert row["peak"] < row["projected"] < 2 * GIB
