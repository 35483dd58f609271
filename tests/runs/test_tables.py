"""The tables of a run are streams: what is added up is what a list would give, and a hundred thousand rows are never held."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from microseg_ray.quarantine import Failure
from microseg_ray.runs.folder import Run
from microseg_ray.runs.identity import RunIdentity
from microseg_ray.runs.totals import RunTotals
from microseg_ray.statistics import rows
from microseg_ray.statistics.areas import Measured

if TYPE_CHECKING:
    from collections.abc import Mapping

CLASSES = [{"name": name, "color": "#000000"} for name in ("matrix", "grain", "pore")]


def counts_of(name: str, pages: int = 1, bar: int = 0, missed: int = 0) -> Measured:
    own = np.array([len(name), 2, 1], np.int64)
    seams = {"pixels": 4, "seam_argmax_flips": pages, "seam_max_abs": 0.25 * pages}
    return Measured(name, own, None, "", "f0", seams, int(own.sum()) + bar + missed, bar, pages)


MICROGRAPHS = st.lists(
    st.tuples(
        st.sampled_from("abcdefgh"), st.booleans(), st.integers(1, 3), st.integers(0, 5), st.integers(0, 5)
    ),
    unique_by=lambda each: each[0],
)  # fmt: skip


@given(micrographs=MICROGRAPHS, failed=st.lists(st.sampled_from("abcxyz")), left=st.integers(0, 3))
def test_sums_are_those_of_a_list(micrographs, failed, left):
    found = [
        (name, counts_of(name, pages, bar, missed) if done else None) for name, done, pages, bar, missed in micrographs
    ]
    totals = RunTotals.of(Failure(name, "open", "broken") for name in failed)
    passed = list(totals.adding(found))
    finished = [measured for _, measured in found if measured is not None]
    assert passed == finished
    files, pages, pixels = totals.accounts({"hidden": left})
    used = {measured.micrograph for measured in finished}
    waiting = [name for name, measured in found if measured is None and name not in failed]
    assert (files.used, files.set_aside) == (len(used), len(set(failed) - used))
    assert files.seen == len(used | set(failed)) + left + len(waiting)
    assert files.left == left + len(waiting)
    assert (f"such as {waiting[0]}" in files.reasons) if waiting else ("not finished" not in files.reasons)
    assert (pages.seen, pages.used) == (sum(each.pages for each in finished), len(used))
    assert pixels.seen == sum(each.pixels for each in finished)
    assert pixels.used == sum(int(each.counts.sum()) for each in finished)
    assert not any(account.unaccounted for account in (files, pages, pixels))
    assert totals.seams["pixels"] == 4 * len(used)
    assert totals.seams["seam_argmax_flips"] == pages.seen
    assert totals.seams["seam_max_abs"] == max((0.25 * each.pages for each in finished), default=0.0)


class Counted(dict):
    """Counts that are made when they are asked for, as those on disk are."""

    def get(self, name: str, _default: object = None) -> Measured:
        return counts_of(name)


def peak_of_tables(folder, number: int) -> int:
    document: Mapping[str, object] = {"classes": CLASSES, "verdict": "exact"}
    folder.mkdir()
    run = Run(folder, RunIdentity("f0", {}), document)
    names = [f"{each:06d}.tif" for each in range(number)]
    tracemalloc.start()
    try:
        rows, accounts = run.write_tables(names, [], Counted())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(rows) == 3 * number
    assert rows[-1].micrograph == names[-1]
    assert (accounts[0].seen, accounts[0].used) == (number, number)
    return peak


def test_ten_times_the_micrographs_take_no_more_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "BATCH_ROWS", 300)
    peak_of_tables(tmp_path / "first", 10)  # what is loaded on first use
    few, many = peak_of_tables(tmp_path / "few", 200), peak_of_tables(tmp_path / "many", 2000)
    # A list of the 5,400 further rows would take 1 MB; a list of names is sorted.
    assert many - few < 200_000
