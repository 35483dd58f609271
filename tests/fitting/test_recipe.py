"""The recipe of a fit: its rules as laws, its facts against plain loops, and the job as a user runs it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from microseg_ray.errors import SettingsError
from microseg_ray.fitting.recipe.facts import Facts, object_size, owned_parts, read_facts
from microseg_ray.fitting.recipe.job import make_recipe, seconds_per_pixel
from microseg_ray.fitting.recipe.rules import GIVEN, RADIUS, STEP_PIXELS, Budget, choose
from microseg_ray.fitting.recipe.writing import config_text, flat, nested
from microseg_ray.settings import JOBS, TrainSettings, load_settings, settings_from
from microseg_ray.settings.recipe import RecipeSettings
from microseg_ray.tiles.store import TileStore

SHALE = Facts(
    side=352,
    smallest=343,
    tiles=132,
    micrographs=66,
    judges=4,
    channels=1,
    classes=("clay", "silt", "pore"),
    pixels=(6_500_000, 1_500_000, 1_000_000),
    sizes=(300.0, 60.0, 12.0),
    lacking=(0.0, 0.0, 0.0),
    brightness=0.03,
    contrast=0.17,
    upright=False,
    weights=True,
)


@st.composite
def facts(draw: st.DrawFn) -> Facts:
    count = draw(st.integers(2, 5))
    side = draw(st.integers(2, 64)) * draw(st.sampled_from([4, 16, 32]))
    some = st.lists(st.floats(0, 1), min_size=count, max_size=count)
    size = st.one_of(st.none(), st.floats(1, 3000))
    return Facts(
        side=side,
        smallest=draw(st.integers(1, side)),
        tiles=draw(st.integers(1, 10_000)),
        micrographs=draw(st.integers(1, 1000)),
        judges=draw(st.integers(0, 9)),
        channels=draw(st.integers(1, 4)),
        classes=tuple(f"c{index}" for index in range(count)),
        pixels=tuple(draw(st.lists(st.integers(0, 10**9), min_size=count, max_size=count))),
        sizes=tuple(draw(st.lists(size, min_size=count, max_size=count))),
        lacking=tuple(draw(some)),
        brightness=draw(st.floats(0, 1)),
        contrast=draw(st.floats(0, 2)),
        upright=draw(st.booleans()),
        weights=draw(st.booleans()),
    )


budgets = st.builds(Budget, st.one_of(st.none(), st.floats(0.01, 1000)), st.floats(1e-7, 1e-4))


def values(found: Facts, given_: dict[str, object] | None = None, budget: Budget | None = None) -> dict[str, object]:
    return {choice.key: choice.value for choice in choose(found, given_ or {}, budget or Budget())}


@given(facts(), budgets)
@example(replace(SHALE, pixels=(5, 0, 0)), Budget())
@example(replace(SHALE, side=36, smallest=1, weights=False), Budget(0.01, 1e-4))
def test_every_recipe_is_one_that_train_reads_and_fits_the_data(found: Facts, budget: Budget) -> None:
    choices = choose(found, {}, budget)
    text = config_text(choices, {"tiles": "t", "output": "o"})
    section = yaml.safe_load(text)["train"]
    read = settings_from(TrainSettings, section)
    assert section == nested({"tiles": "t", "output": "o", **{choice.key: choice.value for choice in choices}})
    stride = np.gcd(found.side, 32)
    assert read.crop is not None
    assert read.crop % stride == 0
    assert read.crop <= found.side
    assert read.crop <= max(found.smallest, stride, 8)
    assert 1 <= read.batch <= found.tiles
    assert all(choice.reason and "\n" not in choice.reason for choice in choices)
    # A model whose stride does not divide the tiles could not be trained.
    depth = read.model.stages if read.model.name == "efficientnet_unet" else read.model.depth
    assert depth is not None
    assert found.side % 2**depth == 0
    assert (read.early_stopping is None) == (found.judges == 0)


@given(facts(), st.floats(0.5, 100), st.floats(1e-7, 1e-4))
def test_a_recipe_keeps_to_its_budget_and_a_larger_one_shows_more_pixels(
    found: Facts, minutes: float, rate: float
) -> None:
    def seen(budget: float) -> int:
        read = values(found, budget=Budget(budget, rate))
        steps = int(str(read["epochs"])) * int(str(read["steps_per_epoch"]))
        pixels = steps * int(str(read["batch"])) * int(str(read["crop"])) ** 2
        assert pixels * rate <= budget * 60 or steps <= 10
        return pixels

    # Whole steps and whole tiles: twice the time is always enough for as much.
    assert seen(minutes) <= seen(2 * minutes)


@given(st.floats(1e-6, 0.4), st.floats(1e-6, 0.4))
def test_a_rarer_class_never_weighs_less(first: float, second: float) -> None:
    def weight(share: float) -> float:
        pixels = (int(1e8 * (1 - share - 0.3)), int(1e8 * 0.3), round(1e8 * share))
        chosen = values(replace(SHALE, pixels=pixels))["class_weights"]
        return 1.0 if chosen == "none" else chosen[2]  # type: ignore[index]

    rare, common = sorted((first, second))
    assert 4 >= weight(rare) >= weight(common) >= 1


@given(st.floats(1, 400), st.floats(1, 400))
def test_larger_objects_never_get_a_smaller_crop_or_a_shorter_sight(first: float, second: float) -> None:
    small, large = (
        values(replace(SHALE, side=512, smallest=512, sizes=(999.0, size, 1.0))) for size in sorted((first, second))
    )
    assert small["crop"] <= large["crop"]  # type: ignore[operator]
    assert small["model.stages"] <= large["model.stages"]  # type: ignore[operator]


GIVEN_VALUES = {
    "batch": 3,
    "crop": 64,
    "epochs": 7,
    "steps_per_epoch": 9,
    "optimizer.learning_rate": 1e-5,
    "optimizer.name": "sgd",
    "model.name": "unet",
    "model.dropout": 0.3,
    "loss.focal": 1.0,
    "class_weights": [1.0, 2.0, 3.0],
    "sampling.kind": "uniform",
    "augment.rotate": 1.0,
    "early_stopping": None,
    "early_stopping.patience": 2,
    "ema": None,
    "augment": False,
}


@given(st.sets(st.sampled_from(sorted(GIVEN_VALUES))), budgets)
def test_what_is_given_stays_and_the_rest_suits_it(names: set[str], budget: Budget) -> None:
    # A section is given as a whole or by its keys.
    names = {name for name in names if name.partition(".")[0] == name or name.partition(".")[0] not in names}
    said = {name: GIVEN_VALUES[name] for name in names}
    choices = choose(SHALE, said, budget)
    together = {**said, **{choice.key: choice.value for choice in choices}}
    assert {name: together[name] for name in names} == said
    assert all((choice.reason == GIVEN) == (choice.key in names) for choice in choices)
    settings_from(TrainSettings, {"tiles": "t", "output": "o", **nested(together)})


def test_rules_by_example() -> None:
    assert values(SHALE)["crop"] == 256
    assert values(replace(SHALE, smallest=200))["crop"] == 192
    assert values(replace(SHALE, upright=True))["augment.symmetries"] == "mirror"
    assert values(replace(SHALE, weights=False))["model.name"] == "resunet"
    assert values(SHALE)["class_weights"] == "none"
    coating = replace(SHALE, pixels=(8_666_000, 1_304_000, 30_000))
    assert values(coating)["class_weights"] == [1.0, 1.0, 4.0]
    assert values(coating)["sampling.kind"] == "class_area"
    assert "optimizer.encoder_rate" not in values(SHALE, {"model.name": "unet"})
    short, long = (values(SHALE, budget=Budget(minutes)) for minutes in (2.0, 60.0))
    assert short["batch"] < long["batch"]  # type: ignore[operator]
    assert short["optimizer.learning_rate"] < long["optimizer.learning_rate"]  # type: ignore[operator]
    assert long["batch"] * long["crop"] ** 2 == STEP_PIXELS  # type: ignore[operator]


def test_the_sight_of_the_models_is_the_measured_one() -> None:
    from microseg_ray.models.receptive_field import measure_receptive_field
    from microseg_ray.models.skeleton import model_of_zeros
    from microseg_ray.settings import ModelSettings

    for stages in (2, 4):
        options = ModelSettings(name="efficientnet_unet", stages=stages).options
        field = measure_receptive_field(model_of_zeros("efficientnet_unet", 1, 2, options).eval(), 1)
        assert field.radius == RADIUS[stages]


@given(st.lists(st.integers(1, 500), min_size=1, max_size=30))
def test_half_of_the_area_lies_in_objects_as_large_as_the_typical_one(areas: list[int]) -> None:
    size = object_size(areas)
    assert size is not None
    area = round(np.pi / 4 * size**2)
    assert area in areas
    assert 2 * sum(each for each in areas if each >= area) >= sum(areas)
    assert 2 * sum(each for each in areas if each > area) < sum(areas)


@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=4, unique=True),
    st.lists(st.integers(0, 40), min_size=1, max_size=4, unique=True),
    st.integers(1, 20),
)
def test_each_pixel_under_tiles_is_owned_once(ys: list[int], xs: list[int], side: int) -> None:
    rows = [{"micrograph": "a", "y0": y, "x0": x} for y in ys for x in xs]
    covered, owned = np.zeros((64, 64), int), np.zeros((64, 64), int)
    for row, (y0, y1, x0, x1) in zip(rows, owned_parts(rows, side), strict=True):
        covered[row["y0"] : row["y0"] + side, row["x0"] : row["x0"] + side] = 1
        owned[row["y0"] + y0 : row["y0"] + y1, row["x0"] + x0 : row["x0"] + x1] += 1
    assert (owned == covered).all()


@pytest.mark.parametrize("values_", [{"a": {"b": 1, "c": {"d": [1, 2]}}, "e": False, "f": None}])
def test_dotted_names_are_sections(values_: dict[str, object]) -> None:
    assert nested(flat(values_)) == values_


def test_facts_are_those_of_the_masks(tiles) -> None:
    store = TileStore.open(tiles)
    found = read_facts(store, weights=False)
    rows = [store.table.to_pylist()[index] for index in store.rows("train")]  # type: ignore[union-attr]
    whole: dict[tuple[str, int, int], int] = {}
    for row, mask in zip(rows, store.read(store.rows("train"))[1], strict=True):
        for (y, x), value in np.ndenumerate(mask):
            whole[row["micrograph"], row["y0"] + y, row["x0"] + x] = int(value)
    exact = np.bincount([value for value in whole.values() if value != 255], minlength=3)
    # Of a tile, the share that is its own is taken of every class alike.
    assert np.allclose(found.shares, exact / exact.sum(), atol=0.03)
    assert abs(found.labelled - exact.sum()) <= 0.02 * exact.sum()
    ends = {name: [0, 0] for name, _, _ in whole}
    for name, y, x in (key for key, value in whole.items() if value != 255):
        ends[name] = [max(ends[name][0], y + 1), max(ends[name][1], x + 1)]
    assert found.smallest == min(store.spec.side, *(min(pair) for pair in ends.values()))
    assert found.micrographs == len(ends)
    assert found.tiles == len(rows)


def test_a_class_at_the_top_makes_the_data_upright(tmp_path) -> None:
    from PIL import Image

    from microseg_ray.settings import TileSettings
    from microseg_ray.tiles.make import tile

    noise = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
    for index in range(5):
        mask = np.zeros((96, 64), np.uint8)
        mask[: 20 + index] = 1
        Image.fromarray(mask).save(tmp_path / "masks" / f"{index}.png")
        Image.fromarray(noise.integers(0, 255, mask.shape, dtype=np.uint8)).save(tmp_path / "images" / f"{index}.png")
    chosen = {"images": str(tmp_path / "images"), "masks": str(tmp_path / "masks"), "classes": ["below", "top"]}
    made = tile(TileSettings(**chosen, output=str(tmp_path / "t"), tile=32, overlap=0, workers=0, audit="off"))
    assert read_facts(made.store, weights=False).upright
    for index in range(5):
        mask = np.zeros((96, 64), np.uint8)
        mask[:, : 20 + index] = 1
        Image.fromarray(mask).save(tmp_path / "masks" / f"{index}.png")
    again = TileSettings(**chosen, output=str(tmp_path / "u"), tile=32, overlap=0, workers=0, audit="off")
    assert not read_facts(tile(again).store, weights=False).upright


def test_the_job_writes_a_config_that_train_takes(microseg, tiles, tmp_path) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(
        f"train: {{tiles: {tiles}, output: {tmp_path / 'model'}, workers: 0, model: {{name: unet, width: 2, depth: 1}}, "
        "optimizer: {weight_decay: 0.01}, batch: 2}\n"
    )
    said = ["--cpu_minutes", "0.001", "--epochs", "1"]
    ran = microseg("recipe", str(study), *said)
    assert ran.code == 0, ran.err
    config = tmp_path / "model.yaml"
    read = load_settings(JOBS["train"], [], config)
    # What is given stays, a default that was spelled out as well.
    assert (read.optimizer.weight_decay, read.batch, read.epochs, read.model.width) == (0.01, 2, 1, 2)
    assert "weight_decay: 0.01 # given" in ran.out
    assert "CPU minutes allow" in config.read_text("utf-8")
    assert microseg("train", str(config), "--steps_per_epoch", "2").code == 0
    assert (tmp_path / "model" / "best" / "model.json").is_file()
    ran = microseg("recipe", str(study), "--epochs", "2")
    assert ran.code == 2
    assert "--replace" in ran.err
    assert microseg("recipe", str(study), "--epochs", "2", "--replace").code == 0


def test_the_cost_of_a_step_is_measured_and_a_bad_store_is_named(tiles, tmp_path) -> None:
    small = {"tiles": str(tiles), "output": str(tmp_path / "m"), "model": {"name": "unet", "width": 2, "depth": 1}}
    assert 0 < seconds_per_pixel(settings_from(TrainSettings, {**small, "crop": 16}), replace(SHALE)) < 0.1
    with pytest.raises(SettingsError, match=r"train\.select"):
        make_recipe(settings_from(RecipeSettings, {**small, "select": "iou_nothing"}))
