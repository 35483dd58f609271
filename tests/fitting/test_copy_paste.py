"""`augment.copy_paste`: what is pasted is a whole part of a rare class of some tile, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from microseg_ray.errors import SettingsError
from microseg_ray.fitting.augmentation.pasting import part_at, paste_objects
from microseg_ray.fitting.batches import Preparation, Tiles, prepared
from microseg_ray.fitting.sampling import Batch
from microseg_ray.settings import AugmentSettings, PretrainSettings, TrainSettings, load_settings
from microseg_ray.tiles.store import TileStore

SIDE = 12


def tiles_of(seed, count=3):
    """Tiles of mostly class 0, with squares of 1 and 2 and some pixels without a class; each pixel's intensity is unique."""
    generator = np.random.default_rng(seed)
    masks = np.zeros((count, SIDE, SIDE), np.uint8)
    for mask in masks:
        for value in (1, 2, 255):
            y, x, height, width = generator.integers([0, 0, 1, 1], [SIDE - 3, SIDE - 3, 4, 4])
            mask[y : y + height, x : x + width] = value
    images = 1 + np.arange(masks.size, dtype=np.float32).reshape(count, 1, SIDE, SIDE)
    counts = np.array([[(mask == value).sum() for value in range(3)] for mask in masks])
    return torch.from_numpy(images), torch.from_numpy(masks), counts


def flood(mask, start):
    """A part of equal values around a pixel, with diagonals; the naive way."""
    found, waiting = set(), [start]
    while waiting:
        y, x = waiting.pop()
        if (y, x) in found or not (0 <= y < SIDE and 0 <= x < SIDE) or mask[y, x] != mask[start]:
            continue
        found.add((y, x))
        waiting += [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
    return found


@examples(max_examples=60)
@given(seed=st.integers(0, 999), turn=st.integers(0, 3), chance=st.sampled_from([0.0, 0.5, 1.0]))
def test_a_whole_part_of_a_rare_class_is_copied_and_the_rest_stays(seed, turn, chance):
    givers, labels, counts = tiles_of(seed)
    images, masks = torch.zeros(2, 1, SIDE, SIDE), torch.full((2, SIDE, SIDE), 7, dtype=torch.uint8)
    paste_objects(
        images, masks, [(1, 2, 5, turn), (1, 2, 6, turn)], counts, chance, lambda row: (givers[row], labels[row])
    )
    for image, mask in zip(images[:, 0].numpy(), masks.numpy(), strict=True):
        changed = mask != 7
        assert (changed == (image != 0)).all()
        if not changed.any():
            assert chance < 1
            continue
        # The intensities say from which pixels these are copies.
        rows, ys, xs = np.unravel_index(image[changed].astype(int) - 1, labels.shape)
        assert len(set(rows)) == 1
        source = labels[rows[0]].numpy()
        assert set(zip(ys.tolist(), xs.tolist(), strict=True)) == flood(source, (int(ys[0]), int(xs[0])))
        assert set(mask[changed]) == {source[ys[0], xs[0]]} <= {1, 2}
        assert changed.sum() == len(ys) == len(set(zip(ys.tolist(), xs.tolist(), strict=True)))


@given(seed=st.integers(0, 999), pick=st.floats(0, 1))
def test_a_part_is_what_a_flood_finds(seed, pick):
    of_class = np.random.default_rng(seed).random((SIDE, SIDE)) < 0.3
    found = np.argwhere(part_at(of_class, pick)).tolist()
    assert {tuple(place) for place in found} == flood(of_class, tuple(found[0]))


def test_classes_are_drawn_equally_often_and_phases_are_not_pasted():
    givers, labels, counts = tiles_of(3)
    seen = []
    for tile in range(300):
        images, masks = torch.zeros(1, 1, SIDE, SIDE), torch.full((1, SIDE, SIDE), 7, dtype=torch.uint8)
        paste_objects(images, masks, [(0, 0, tile, 0)], counts, 1.0, lambda row: (givers[row], labels[row]))
        seen += set(masks.unique().tolist()) - {7}
    assert 100 < seen.count(1) < 200 and seen.count(1) + seen.count(2) == 300  # noqa: PT018 - one split
    phase = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    phase[:6] = 1
    images, masks = torch.zeros(1, 1, SIDE, SIDE), torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    paste_objects(images, masks, [(0, 0, 0, 0)], np.array([[80, 72]]), 1.0, lambda _: (givers[0], phase))
    assert not images.any()


def test_a_batch_may_be_shared_and_without_it_nothing_changes(tiles):
    """What a tile gets does not depend on its batch; 0 is the augmentation as it was."""
    store = TileStore.open(tiles)
    data, counts = Tiles(store, store.rows("train")), store.tile_counts("train")

    def made(places, copy_paste):
        how = Preparation(4, AugmentSettings(copy_paste=copy_paste), 24, counts=counts)
        places = np.array(places)
        return prepared(data, Batch(places, np.full(len(places), -1), np.zeros(len(places), int)), how, 1, "cpu")

    whole, alone, off = made([0, 5, 9], 1.0), made([9], 1.0), made([0, 5, 9], 0.0)
    plain = prepared(
        data,
        Batch(np.array([0, 5, 9]), np.full(3, -1), np.zeros(3, int)),
        Preparation(4, AugmentSettings(), 24),
        1,
        "cpu",
    )
    assert torch.equal(whole[0][2:], alone[0])
    assert torch.equal(whole[1][2:], alone[1])
    assert torch.equal(off[0], plain[0])
    assert not torch.equal(whole[1], off[1])


def test_it_is_off_by_default_and_binds_no_older_fit():
    assert "copy_paste" not in AugmentSettings(rotate=5).model_dump()
    assert AugmentSettings(**AugmentSettings(copy_paste=0.5).model_dump()).copy_paste == 0.5
    arguments = ["--tiles", "t", "--output", "o", "--augment.copy_paste", "0.5"]
    assert load_settings(TrainSettings, arguments).augmentation.copy_paste == 0.5
    with pytest.raises(SettingsError, match=r"augment.copy_paste"):
        load_settings(PretrainSettings, ["--archive", "a", "--output", "o", "--augment.copy_paste", "0.5"])
