"""`stitch`: what was cut comes back, whatever the order, in memory and out of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microseg_ray import Box, Tile, TileGrid, stitch
from microseg_ray.stitching import BLENDS, assemble, joining, window
from tests.strategies import grids

if TYPE_CHECKING:
    from pathlib import Path

from tests.stitching.pictures import cut, picture, sharded


def one_hot(mask: np.ndarray, classes: int = 3) -> np.ndarray:
    return (mask == np.arange(classes)[:, None, None]).astype(np.float32)


def random_scores(grid: TileGrid, classes: int = 3, seed: int = 0) -> list[tuple[Tile, np.ndarray]]:
    """Tiles that disagree where they overlap."""
    random = np.random.default_rng(seed)
    return [(tile, random.random((classes, *tile.box.shape), np.float32)) for tile in grid]


# --- the identity law -----------------------------------------------------------------------------------------------
@given(grids(), st.randoms(use_true_random=False))
def test_masks_cut_by_any_grid_come_back_in_any_order(grid: TileGrid, random: Any) -> None:
    image = picture(grid.shape)
    pairs = [(tile, cut(image, tile)) for tile in grid]
    random.shuffle(pairs)
    assert np.array_equal(stitch(pairs, grid.shape), image)
    assert np.array_equal(stitch([(tile.origin, array) for tile, array in pairs], grid.shape), image)


@settings(max_examples=60)
@given(grids(), st.sampled_from(BLENDS), st.randoms(use_true_random=False))
def test_scores_cut_by_any_grid_come_back_in_any_order(grid: TileGrid, blend: Any, random: Any) -> None:
    image = picture(grid.shape)
    scores = one_hot(image)
    pairs = [(tile, cut(scores, tile)) for tile in grid]
    random.shuffle(pairs)
    assert np.array_equal(stitch(pairs, grid.shape, blend=blend), image)
    joined = stitch(pairs, grid.shape, blend=blend, argmax=False)
    assert joined.dtype == np.float32
    assert np.abs(joined - scores).max() <= 1e-5


@given(st.sampled_from([bool, np.uint8, np.int16, np.uint16, np.int64, np.float32]))
def test_masks_keep_their_type(dtype: type) -> None:
    grid = TileGrid((30, 20), 8, 2)
    image = picture(grid.shape).astype(dtype)
    joined = stitch([(tile, cut(image, tile)) for tile in grid], grid.shape)
    assert joined.dtype == dtype
    assert np.array_equal(joined, image)


# --- order independence ---------------------------------------------------------------------------------------------
ORDER_GRIDS = st.sampled_from(
    [
        TileGrid((50, 40), 24, 8),
        TileGrid((30, 36), 16, 7),  # 88 % overlap: up to 64 tiles over one pixel
        TileGrid((65, 33), 16, 3, 4),
        TileGrid((40, 70), (16, 40), 4, 1, shard=32),
    ]
)


@pytest.mark.parametrize("blend", ["hann", "gaussian", "mean", "crop", "weights"])
@settings(max_examples=6)
@given(ORDER_GRIDS, st.booleans(), st.randoms(use_true_random=False))
def test_any_order_gives_the_same_bytes_in_memory_and_out_of_it(
    blend: Any, grid: TileGrid, argmax: bool, random: Any
) -> None:
    pairs = random_scores(grid)
    join = {
        "blend": np.random.default_rng(5).random(grid.tile_shape) + 0.1 if blend == "weights" else blend,
        "argmax": argmax,
    }
    reference = stitch(pairs, grid.shape, **join)
    shuffled = list(pairs)
    random.shuffle(shuffled)
    tiles = [tile for tile, _ in pairs]
    for option in (
        {},
        {"held_bytes": 1},
        {"held_bytes": 50_000},
        {"origins": tiles},
        {"origins": tiles, "held_bytes": 1},
    ):
        into = sharded(reference.shape, str(reference.dtype), *random.choice([(32, 16), (48, 48)]))
        assert stitch(iter(shuffled), grid.shape, into=into, **join, **option) is into
        assert np.asarray(into[:]).tobytes() == reference.tobytes()
    assert stitch(shuffled, grid.shape, **join).tobytes() == reference.tobytes()
    # Given by origin, crop has another rule of ownership; that one too depends on no order.
    reference = stitch([(tile.origin, array) for tile, array in pairs], grid.shape, **join)
    by_origin = [(tile.origin, array) for tile, array in shuffled]
    for option in ({}, {"held_bytes": 50_000}, {"origins": [tile.origin for tile in tiles]}):
        into = sharded(reference.shape, str(reference.dtype))
        stitch(by_origin, grid.shape, into=into, **join, **option)
        assert np.asarray(into[:]).tobytes() == reference.tobytes()


@given(st.permutations(range(6)), st.sampled_from(["crop", "mean"]))
def test_even_tiles_of_one_place_that_disagree_depend_on_no_order(order: list[int], blend: Any) -> None:
    tiles = [((0, 0), np.random.default_rng(seed).random((2, 5, 5), np.float32)) for seed in range(5)]
    tiles.append(((0, 3), tiles[0][1]))
    reference = stitch(tiles, (5, 8), blend=blend, argmax=False)
    assert stitch([tiles[index] for index in order], (5, 8), blend=blend, argmax=False).tobytes() == reference.tobytes()


@settings(max_examples=15)
@given(ORDER_GRIDS, st.randoms(use_true_random=False))
def test_overlapping_masks_that_disagree_depend_on_no_order(grid: TileGrid, random: Any) -> None:
    masks = [(tile.origin, picture(tile.box.shape, seed=index)) for index, tile in enumerate(grid)]
    reference = stitch(masks, grid.shape)
    random.shuffle(masks)
    assert stitch(masks, grid.shape).tobytes() == reference.tobytes()
    into = sharded(grid.shape, "uint8")
    stitch(masks, grid.shape, into=into, held_bytes=2000)
    assert np.asarray(into[:]).tobytes() == reference.tobytes()


# --- oracles --------------------------------------------------------------------------------------------------------
def naive_window(name: str, shape: tuple[int, int]) -> np.ndarray:
    def weight(at: int, side: int) -> float:
        if name == "hann":
            return np.sin(np.pi * (at + 0.5) / side) ** 2
        return np.exp(-0.5 * ((at + 0.5 - side / 2) / (side / 8)) ** 2) if name == "gaussian" else 1.0

    product = np.array([[weight(y, shape[0]) * weight(x, shape[1]) for x in range(shape[1])] for y in range(shape[0])])
    return np.maximum(product, 1e-6)


@settings(max_examples=40)
@given(grids(), st.sampled_from(["hann", "gaussian", "mean"]), st.integers(0, 5))
def test_blended_scores_equal_a_sum_in_float64(grid: TileGrid, blend: Any, seed: int) -> None:
    pairs = random_scores(grid, seed=seed)
    weights = naive_window(blend, grid.tile_shape)
    total, weight = np.zeros((3, *grid.shape)), np.zeros(grid.shape)
    for tile, array in pairs:
        for y in range(tile.visible.height):
            for x in range(tile.visible.width):
                total[:, tile.box.y0 + y, tile.box.x0 + x] += array[:, y, x].astype(float) * weights[y, x]
                weight[tile.box.y0 + y, tile.box.x0 + x] += weights[y, x]
    assert np.abs(stitch(pairs, grid.shape, blend=blend, argmax=False) - total / weight).max() <= 1e-5


@settings(max_examples=40)
@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12), st.integers(1, 12), st.integers(1, 12)), max_size=6),
    st.tuples(st.integers(1, 13), st.integers(1, 13)),
    st.randoms(use_true_random=False),
)
def test_each_pixel_belongs_to_the_tile_in_which_it_lies_deepest(places, shape, random) -> None:
    boxes = [(0, 0, *shape)] + [place for place in places if place[0] < shape[0] and place[1] < shape[1]]
    boxes = sorted(set(boxes))
    tiles = [((y, x), np.full((height, width), index, np.int32)) for index, (y, x, height, width) in enumerate(boxes)]

    def depth(box: tuple[int, int, int, int], y: int, x: int) -> int:
        top = 10**6 if box[0] == 0 else y - box[0] + 1
        left = 10**6 if box[1] == 0 else x - box[1] + 1
        bottom = 10**6 if box[0] + box[2] >= shape[0] else box[0] + box[2] - y
        right = 10**6 if box[1] + box[3] >= shape[1] else box[1] + box[3] - x
        return min(top, left, bottom, right)

    expected = np.full(shape, -1)
    for y in range(shape[0]):
        for x in range(shape[1]):
            inside = [
                (-depth(box, y, x), box, index)
                for index, box in enumerate(boxes)
                if box[0] <= y < box[0] + box[2] and box[1] <= x < box[1] + box[3]
            ]
            # The first in row-major order on a tie; of tiles at one place, the smaller.
            expected[y, x] = min(inside, key=lambda item: (item[0], item[1][0], item[1][1], item[1][2], item[1][3]))[2]
    random.shuffle(tiles)
    assert stitch(tiles, shape).tolist() == expected.tolist()


def test_windows_are_what_they_say() -> None:
    for name in ("hann", "gaussian", "mean"):
        for shape in ((1, 1), (1, 7), (8, 5)):
            values = window(name, shape)
            assert values.dtype == np.float32
            if min(shape) > 1 or name != "hann":
                assert np.allclose(values, naive_window(name, shape), rtol=1e-6)
            assert values.min() > 0
            assert values.max() <= 1
            assert not values.flags.writeable
    ramp = window("hann", (64, 64))
    assert np.allclose(ramp[:32, :32] + ramp[32:, :32] + ramp[:32, 32:] + ramp[32:, 32:], 1, atol=1e-5)
    with pytest.raises(ValueError, match="choose hann, gaussian or mean"):
        window("crop", (4, 4))


# --- real tiles -----------------------------------------------------------------------------------------------------
def test_the_strips_of_real_tiles_are_rebuilt_byte_for_byte(real_data: Path) -> None:
    tiles: dict[str, list[tuple[Box, Path]]] = {}
    for path in sorted((real_data / "meltpool" / "tiles").glob("*.png")):
        name, x0, y0, x1, y1 = path.stem.rsplit("_", 4)
        tiles.setdefault(name, []).append((Box(int(y0), int(x0), int(y1), int(x1)), path))
    strips: list[list[tuple[Box, Path]]] = []
    for members in tiles.values():
        strip: list[tuple[Box, Path]] = []
        for box, path in sorted(members):
            if strip and box.x0 > strip[-1][0].x1:
                strips.append(strip)
                strip = []
            strip.append((box, path))
        strips.append(strip)
    assert sum(len(strip) for strip in strips) == 34
    assert max(len(strip) for strip in strips) > 10
    for strip in strips:
        left, top = min(box.x0 for box, _ in strip), min(box.y0 for box, _ in strip)
        pairs = []
        for box, path in strip:
            with Image.open(path) as file:
                pixels = np.asarray(file)
            pairs.append(((box.y0 - top, box.x0 - left), pixels if pixels.ndim == 2 else pixels[..., 0]))
        shape = max(box.y1 for box, _ in strip) - top, max(box.x1 for box, _ in strip) - left
        whole = stitch(pairs[::-1], shape)
        assert whole.tobytes() == stitch(pairs, shape).tobytes()
        for (y0, x0), pixels in pairs:
            assert (whole[y0 : y0 + pixels.shape[0], x0 : x0 + pixels.shape[1]] == pixels).all()


# --- into -----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.float64, np.float16])
def test_numpy_into_is_written_and_returned(dtype: type) -> None:
    grid = TileGrid((30, 20), 8, 2)
    pairs = random_scores(grid)
    into = np.zeros(grid.shape, dtype)
    assert stitch(pairs, grid.shape, into=into) is into
    assert np.array_equal(into, stitch(pairs, grid.shape))


def test_an_unsharded_zarr_array_is_written_chunk_by_chunk(tmp_path: Path) -> None:
    image = picture((50, 70))
    into = zarr.create_array(tmp_path / "a.zarr", shape=image.shape, chunks=(16, 32), dtype="uint8")
    grid = TileGrid(image.shape, 24, 4)
    stitch([(tile.origin, cut(image, tile)) for tile in grid], image.shape, into=into)
    assert np.array_equal(np.asarray(into[:]), image)


def test_a_generator_is_read_once_and_its_buffer_may_be_reused() -> None:
    grid = TileGrid((60, 40), 16, 4)
    image = picture(grid.shape)
    given_out = 0

    def tiles() -> Any:
        nonlocal given_out
        buffer = np.zeros(grid.tile_shape, np.uint8)
        for tile in grid:
            buffer[:] = cut(image, tile)
            given_out += 1
            yield tile.origin, buffer
            buffer[:] = 77

    assert np.array_equal(stitch(tiles(), grid.shape), image)
    assert given_out == len(grid)


# --- memory ---------------------------------------------------------------------------------------------------------
class Watch:
    """Counts what `stitch` holds and when it writes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given = 0
        self.most_bytes = 0
        self.most_pieces = 0
        self.written: list[int] = []
        add, store = assemble._Shards.add, joining.Job.store

        def watched_add(shards: Any, where: Any, array: np.ndarray) -> None:
            self.given += 1
            add(shards, where, array)
            pieces = [piece for shard in shards._open.values() for piece in shard.pieces]
            held = sum(piece.array.nbytes for piece in pieces)
            assert held == shards._held  # the books are right
            self.most_bytes = max(self.most_bytes, held)
            self.most_pieces = max(self.most_pieces, len(pieces))

        def watched_store(job: Any, box: Box, pixels: np.ndarray) -> None:
            self.written.append(self.given)
            store(job, box, pixels)

        monkeypatch.setattr(assemble._Shards, "add", watched_add)
        monkeypatch.setattr(joining.Job, "store", watched_store)


@pytest.mark.parametrize("how", ["origins", "tiles", "cores"])
@pytest.mark.parametrize("rows", [4, 16])
def test_shards_are_written_early_and_little_is_held(how: str, rows: int, monkeypatch) -> None:
    grid = TileGrid((rows * 32, 96), 32, 4)
    image = picture(grid.shape)
    scores = how == "tiles"
    pairs = [(tile, cut(one_hot(image) if scores else image, tile)) for tile in grid]
    origins = None if how == "cores" else [tile.origin for tile in grid]
    if how == "origins":
        pairs = [(tile.origin, array) for tile, array in pairs]
    into = sharded(grid.shape, "uint8")
    watch = Watch(monkeypatch)
    stitch(iter(pairs), grid.shape, into=into, origins=origins)
    assert np.array_equal(np.asarray(into[:]), image)
    assert len(watch.written) == rows * 3
    assert watch.written[0] <= 3 * grid.counts[1]
    # A few rows of tiles, whatever the height of the micrograph. A tile may lie in four shards.
    assert watch.most_pieces <= 4 * 3 * grid.counts[1]


def test_without_origins_what_is_held_stays_below_the_limit_and_the_disk_is_left_clean(
    tmp_path: Path, monkeypatch
) -> None:
    grid = TileGrid((256, 96), 32, 4)
    image = picture(grid.shape)
    pairs = [(tile.origin, cut(image, tile)) for tile in grid]
    into = sharded(grid.shape, "uint8")
    (tmp_path / "spill").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "spill"))
    watch = Watch(monkeypatch)
    stitch(pairs, grid.shape, into=into, held_bytes=5000)
    assert np.array_equal(np.asarray(into[:]), image)
    assert watch.most_bytes <= 5000
    assert watch.written == [len(grid)] * 24
    assert list((tmp_path / "spill").iterdir()) == []
