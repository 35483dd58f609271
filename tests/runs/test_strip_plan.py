"""Strips are as wide as the memory allows, up to a bound, and the memory that is foretold is that of the widest."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microseg_ray.models.card import Footprint, ModelCard, ReceptiveField
from microseg_ray.models.computing import Computing
from microseg_ray.models.strips import NotStreamableError
from microseg_ray.models.strips.streaming import streaming_of
from microseg_ray.runs.plan import ENOUGH_WIDTH, GIB, STRIP_ROWS, engine_plan, strip_bytes, strips_of
from microseg_ray.settings import ClassSpec, SegmentSettings

CARD = ModelCard(
    architecture="resunet",
    in_channels=1,
    classes=(ClassSpec(name="matrix"), ClassSpec(name="pore")),
    receptive_field=ReceptiveField(radius=302, stride=16),
    footprint=Footprint(parameter_bytes=8_000_000, fp32=252.0, bf16=128.0),
)
HALO = 304


def chosen(memory: float, shard: int = 2048) -> SegmentSettings:
    return SegmentSettings(archive="a", checkpoint="c", output="o", memory=memory, shard=shard, path="strips")


@pytest.mark.parametrize("runtime", ["torch", "openvino"])
@settings(max_examples=12, deadline=None)
@given(memory=st.floats(1.0, 9.0), shards=st.integers(1, 5), precision=st.sampled_from(["bf16", "fp32"]))
def test_the_widest_that_fits_is_taken(runtime: str, memory: float, shards: int, precision: str) -> None:
    computing = Computing(runtime, {"runtime": runtime, runtime: "1", "runtime_precision": precision})
    options, shard = chosen(memory, shards * 1024), shards * 1024

    def widest(rows: int) -> int:
        streaming = streaming_of(CARD, rows)
        fits = [
            width
            for width in range(shard, max(ENOUGH_WIDTH, shard) + 1, shard)
            if strip_bytes(options, CARD, streaming, width + 2 * HALO, computing) <= memory * GIB
        ]
        return max(fits, default=0)

    best = max(widest(rows) for rows in STRIP_ROWS)
    if not best:
        with pytest.raises(NotStreamableError, match="does not fit memory"):
            strips_of(options, CARD, HALO, int(memory * GIB), computing)
        return
    rows, width, needed = strips_of(options, CARD, HALO, int(memory * GIB), computing)
    assert width == best
    # Of equally wide ones the tallest, which copies least.
    assert rows == max(each for each in STRIP_ROWS if widest(each) == best)
    assert needed == strip_bytes(options, CARD, streaming_of(CARD, rows), width + 2 * HALO, computing) <= memory * GIB


def test_the_plan_foretells_the_memory_of_the_widest_strip() -> None:
    plan = engine_plan(chosen(16.0), CARD)
    assert plan.engine.strip_width == ENOUGH_WIDTH
    streaming = streaming_of(CARD, plan.engine.strip)
    assert plan.worker_bytes == strip_bytes(chosen(16.0), CARD, streaming, ENOUGH_WIDTH + 2 * HALO)
