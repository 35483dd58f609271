"""plan: what a run will do and cost, before anything is computed or written."""

from __future__ import annotations

import pytest

from microseg_ray.errors import RunMismatchError, SettingsError
from microseg_ray.models.card import read_card
from microseg_ray.on_ray.actors import plan, segment
from microseg_ray.runs.plan import engine_plan, project_memory
from microseg_ray.settings import PlanSettings, SegmentSettings, settings_from
from microseg_ray.stitching import engine_grid

GIB = 1024**3


def chosen(archive, checkpoint, output, **options):
    values = {"archive": str(archive), "checkpoint": str(checkpoint), "output": str(output), "workers": 0, "shard": 64}
    return {**values, **options}


def test_a_plan_foretells_the_run_and_writes_nothing(archive, checkpoint, tmp_path):
    values = chosen(archive, checkpoint, tmp_path / "run")
    before = plan(settings_from(PlanSettings, values))
    assert not (tmp_path / "run").exists()
    done = segment(settings_from(SegmentSettings, values))
    assert before.missing == before.shards == done.ledger.computed
    after = plan(settings_from(PlanSettings, values))
    assert (after.missing, after.complete) == (0, before.micrographs - len(before.failures))
    assert {failure.path for failure in before.failures} == {failure.path for failure in done.ledger.failures}


def test_what_is_missing_is_counted_after_a_part_is_lost(archive, checkpoint, tmp_path):
    values = chosen(archive, checkpoint, tmp_path / "run")
    segment(settings_from(SegmentSettings, values))
    lost = next((tmp_path / "run" / "masks").rglob("counts/c/0/0/0"))
    lost.unlink()
    assert plan(settings_from(PlanSettings, values)).missing == 1


def test_a_plan_on_a_run_of_other_settings_is_refused(archive, checkpoint, tmp_path):
    segment(settings_from(SegmentSettings, chosen(archive, checkpoint, tmp_path / "run")))
    with pytest.raises(RunMismatchError, match="halo"):
        plan(settings_from(PlanSettings, chosen(archive, checkpoint, tmp_path / "run", halo=4)))


def make(checkpoint, **options):
    return settings_from(PlanSettings, chosen("a", checkpoint, "o", **{"shard": 2048, **options}))


def test_the_automatic_tile_is_the_largest_that_fits(checkpoint):
    card = read_card(checkpoint)
    small, large = (engine_plan(make(checkpoint, memory=memory, path="tiles"), card) for memory in (0.8, 8.0))
    assert small.engine.tile_pixels < large.engine.tile_pixels
    assert small.worker_bytes <= 0.8 * GIB
    assert large.engine.tile == 2048 + 2 * card.receptive_field.halo
    assert "tile_area" not in large.engine.used, "a run of a version without it is gone on with"


def test_sides_of_tiles_are_chosen_for_each_micrograph(checkpoint):
    card = read_card(checkpoint)
    settings = make(checkpoint, memory=0.8, path="tiles", halo=256)
    engine = engine_plan(settings, card).engine
    assert 0 < engine.tile_area < engine.tile**2
    side = int(engine.tile_area**0.5) // engine.stride * engine.stride
    square = engine_plan(make(checkpoint, memory=0.8, path="tiles", halo=256, tile=side), card).engine
    for shape in ((8192, 8192), (2048, 30000), (1000, 1000)):
        chosen_tax, square_tax = (engine_grid(shape, each).halo_tax for each in (engine, square))
        assert chosen_tax <= square_tax
    assert engine_grid((8192, 8192), engine).halo_tax < engine_grid((8192, 8192), square).halo_tax
    # What a run is bound to is enough to plan it again.
    again = make(checkpoint, memory=64.0, path="tiles", halo=256, tile=engine.tile, tile_area=engine.tile_area)
    assert engine_plan(again, card).engine == engine


@pytest.mark.parametrize(
    ("options", "says"), [({"blend": "hann"}, "square tiles"), ({"tile_area": 64}, "smallest tile")]
)
def test_an_area_that_cannot_work_is_refused(checkpoint, options, says):
    with pytest.raises(SettingsError, match=says):
        engine_plan(make(checkpoint, **{"tile_area": 1 << 20, **options}), read_card(checkpoint))


def test_more_than_fits_is_refused_with_what_to_change(checkpoint):
    with pytest.raises(SettingsError, match="raise memory, or lower tile, batch or shard"):
        engine_plan(make(checkpoint, memory=0.1), read_card(checkpoint))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tile": 30}, "multiple of the model's stride"),
        ({"tile": 32, "halo": 16}, "leaves|at least"),
        ({"shard": 1000}, "multiple of 512"),
        ({"shard": 66}, "multiple of the model's stride"),
    ],
)
def test_settings_that_cannot_work_are_refused(checkpoint, options, says):
    with pytest.raises(SettingsError, match=says):
        engine_plan(make(checkpoint, **options), read_card(checkpoint))


def test_on_a_gpu_its_own_memory_decides_the_tile(checkpoint):
    card = read_card(checkpoint)
    options = {"gpu": True, "memory": 64.0, "path": "tiles"}
    scarce, ample = (engine_plan(make(checkpoint, **options), card, size) for size in (GIB // 16, 80 * GIB))
    assert scarce.engine.tile_pixels < ample.engine.tile_pixels
    needed = project_memory(scarce.engine, card, "bf16", gpu=True)
    assert 0 < needed.device <= GIB // 16
    assert engine_plan(make(checkpoint, **options), card, None).engine.tile == ample.engine.tile


def test_the_verdict_says_why_it_is_not_exact(checkpoint):
    card = read_card(checkpoint)
    assert engine_plan(make(checkpoint), card).verdict == "exact"
    for options, word in (({"halo": 4}, "halo 4"), ({"blend": "hann"}, "blend hann")):
        found = engine_plan(make(checkpoint, **options), card)
        assert found.verdict == "bounded"
        assert word in found.reason


def test_the_command_line_prints_the_plan(microseg, archive, checkpoint, tmp_path):
    ran = microseg(
        "plan", *(f"--{name}={value}" for name, value in chosen(archive, checkpoint, tmp_path / "r").items())
    )
    for word in ("halo tax", "memory", "disk", "seams", "exact"):
        assert word in ran.out
