"""Law 4: a write is whole or absent. A shard whose writing is cut short anywhere is "not done", and is computed again."""

from __future__ import annotations

import numpy as np
import pytest

from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.settings import ClassSpec

SPEC = MaskSpec((100, 90), (ClassSpec(name="matrix"), ClassSpec(name="pore")), shard=64, extra="margin")


@pytest.mark.parametrize("step", ["forget", "_flush"])
@pytest.mark.parametrize("again", [False, True], ids=["first time", "over an older one"])
def test_a_shard_is_done_or_not(step, again, tmp_path, monkeypatch):
    store = MaskStore.create(tmp_path / "a.zarr", SPEC, {})
    mask, margin = np.ones((64, 64), np.uint8), np.full((64, 64), 7, np.uint8)
    if again:
        store.commit((0, 0), mask * 0, margin)
    own = getattr(MaskStore, step)

    def cut(*arguments):
        own(*arguments)
        raise OSError("cut short")

    with monkeypatch.context() as patched:
        patched.setattr(MaskStore, step, cut)
        with pytest.raises(OSError, match="cut short"):
            store.commit((0, 0), mask, margin)
    after = MaskStore.open(tmp_path / "a.zarr")
    assert (0, 0) in after.missing()
    assert not after.finished
    after.commit((0, 0), mask, margin)
    assert MaskStore.open(tmp_path / "a.zarr").missing() == [(0, 1), (1, 0), (1, 1)]
    assert after.counts[0, 0].tolist() == [0, 64 * 64]
    assert set(np.unique(np.asarray(after.mask[64:, :]))) == {255}, "what is absent reads as not measured"
