"""Catalog: pairs are certain or refused, groups are never split, the same settings give the same splits."""

from __future__ import annotations

import csv
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from microseg_ray.catalog import (
    CatalogRow,
    build_catalog,
    class_share_error,
    read_table,
    relative_name,
    write_catalog,
)
from microseg_ray.catalog.splits import apportion, assign, stratify
from microseg_ray.errors import InputError, SettingsError
from microseg_ray.quarantine import Failure, write_failures
from microseg_ray.settings import DataSettings

if TYPE_CHECKING:
    from pathlib import Path


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def paired(folder: Path, **options):
    rows, failures, *_ = build_catalog(DataSettings(images=f"{folder}/i", masks=f"{folder}/m", **options))
    return {row.name: None if row.mask is None else relative_name(row.mask, folder / "m") for row in rows}, failures


def test_odd_names_pair(tmp_path):
    tree(tmp_path, "i/a#1 (2).tif", "i/ünder/ß 3.png", "m/a#1 (2).png", "m/ünder/ß 3.tif")
    assert paired(tmp_path) == ({"a#1 (2).tif": "a#1 (2).png", "ünder/ß 3.png": "ünder/ß 3.tif"}, [])


def test_suffixes_are_cut(tmp_path):
    tree(tmp_path, "i/a_raw.tif", "i/b_raw.tif", "m/a_mask.png", "m/b_mask.png")
    pairs, failures = paired(tmp_path, image_suffix="_raw", mask_suffix="_mask")
    assert pairs == {"a_raw.tif": "a_mask.png", "b_raw.tif": "b_mask.png"}
    assert not failures


def test_images_and_masks_in_one_folder(tmp_path):
    tree(tmp_path, "a.tif", "a_mask.tif", "b.tif", "b_mask.tif")
    rows, failures, *_ = build_catalog(DataSettings(images=str(tmp_path), masks=str(tmp_path), mask_suffix="_mask"))
    assert [(row.name, row.mask) for row in rows] == [
        ("a.tif", tmp_path / "a_mask.tif"),
        ("b.tif", tmp_path / "b_mask.tif"),
    ]
    assert not failures


def test_the_mask_in_the_same_subfolder_comes_first(tmp_path):
    tree(tmp_path, "i/x/a.tif", "i/y/a.tif", "m/x/a.png", "m/y/a.png", "i/b.tif", "m/elsewhere/b.png")
    assert paired(tmp_path) == ({"b.tif": "elsewhere/b.png", "x/a.tif": "x/a.png", "y/a.tif": "y/a.png"}, [])


def test_doubtful_pairs_are_set_aside(tmp_path):
    tree(tmp_path, "i/none.tif", "i/two.tif", "i/good.tif", "m/two.png", "m/two.tif", "m/good.png")
    tree(tmp_path, "i/same.tif", "i/same.jpg", "m/same.png", "i/own.tif", "i/sub/own.tif", "m/own.png")
    pairs, failures = paired(tmp_path)
    assert pairs == {"good.tif": "good.png", "own.tif": "own.png"}
    reasons = {relative_name(failure.path, tmp_path / "i"): failure.reason for failure in failures}
    assert set(reasons) == {"none.tif", "two.tif", "same.tif", "same.jpg", "sub/own.tif"}
    assert "no mask named none.*" in reasons["none.tif"]
    assert "two masks fit" in reasons["two.tif"]
    assert "two.png" in reasons["two.tif"]
    assert "two.tif" in reasons["two.tif"]
    assert "same.png also fits" in reasons["same.tif"]
    assert "own.png also fits" in reasons["sub/own.tif"]
    assert {failure.stage for failure in failures} == {"catalog"}


def test_without_masks_nothing_is_paired(tmp_path):
    tree(tmp_path, "i/a.tif")
    rows, failures, *_ = build_catalog(DataSettings(images=f"{tmp_path}/i"))
    assert [(row.mask, row.group, row.split) for row in rows] == [(None, "a", "train")]
    assert not failures


def test_a_glob_names_from_its_fixed_part(tmp_path):
    tree(tmp_path, "x/1/a.tif", "x/2/a.tif")
    rows, *_ = build_catalog(DataSettings(images=f"{tmp_path}/x/*/a.tif"))
    assert [row.name for row in rows] == ["1/a.tif", "2/a.tif"]


def test_a_name_in_no_group_is_set_aside(tmp_path):
    tree(tmp_path, "s1_a.tif", "s2_a.tif", "other.tif")
    rows, failures, *_ = build_catalog(DataSettings(images=str(tmp_path), group=r"^s(\d+)_"))
    assert [row.group for row in rows] == ["1", "2"]
    assert [failure.path for failure in failures] == [str(tmp_path / "other.tif")]
    assert "does not match data.group" in failures[0].reason


def test_the_whole_match_is_the_group_without_a_capture(tmp_path):
    tree(tmp_path, "s1_a.tif", "s1_b.tif")
    rows, *_ = build_catalog(DataSettings(images=str(tmp_path), group=r"s\d+"))
    assert {row.group for row in rows} == {"s1"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "data.images: missing"),
        ({"images": "{0}", "splits": {"val": ("zz",)}}, "data.splits.val: there is no group 'zz'; known are a, b"),
        ({"images": "{0}", "splits": {"val": ("a",), "test": ("a",)}}, "'a' is listed twice, in val and in test"),
        ({"images": "{0}", "masks": "{0}", "mask_suffix": "_m"}, "data.mask_suffix '_m': no file"),
    ],
)
def test_impossible_settings_are_named(tmp_path, options, message):
    tree(tmp_path, "a.tif", "b.tif")
    options = {key: value.format(tmp_path) if isinstance(value, str) else value for key, value in options.items()}
    with pytest.raises(SettingsError, match=message):
        build_catalog(DataSettings(**options))


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: no such file or folder"):
        build_catalog(DataSettings(images=f"{tmp_path}/nowhere"))


SHARES = st.lists(st.floats(0, 0.5), min_size=0, max_size=4).filter(lambda shares: sum(shares) <= 1)


@settings(max_examples=200, deadline=None)
@given(shares=SHARES, total=st.integers(0, 200))
def test_shares_become_whole_numbers(shares, total):
    named = {f"s{index}": share for index, share in enumerate(shares)}
    named["train"] = 1 - sum(shares)
    counts = apportion(named, total)
    assert sum(counts.values()) == total
    wanted = [split for split, share in named.items() if share > 1e-9]
    assert all(counts[split] >= 0 for split in named)
    if total >= 2 * len(named):
        assert all(counts[split] >= 1 for split in wanted)
        # Each is off by less than one, and by those that went to a share that would have had none.
        assert all(abs(counts[split] - named[split] * total) < 1 + len(named) for split in named)


@settings(max_examples=100, deadline=None)
@given(
    groups=st.lists(st.text(min_size=1, max_size=6), unique=True, max_size=30).map(sorted),
    seed=st.integers(0, 9),
    shares=SHARES,
    data=st.data(),
)
def test_every_group_has_one_split_and_lists_win(groups, seed, shares, data):
    listed = data.draw(st.lists(st.sampled_from(groups), unique=True)) if groups else []
    splits = {"held out": tuple(listed), **{f"s{index}": share for index, share in enumerate(shares)}}
    assigned = assign(groups, splits, seed)
    assert set(assigned) == set(groups)
    assert all((assigned[group] == "held out") == (group in listed) for group in groups)
    assert assigned == assign(groups, splits, seed)


def test_the_shuffle_is_the_same_for_ever():
    groups = [f"g{index:02}" for index in range(12)]
    found = assign(groups, {"val": 0.25, "test": 0.25}, seed=0)
    assert sorted(found[group] for group in groups) == ["test"] * 3 + ["train"] * 6 + ["val"] * 3
    assert [group for group in groups if found[group] == "val"] == ["g03", "g05", "g07"]
    assert assign(groups, {"val": 0.25, "test": 0.25}, seed=1) != found


def test_failures_are_written_as_csv(tmp_path):
    failures = [Failure("a, b.tif", "open", 'says "no"\nand more'), Failure("ü.tif", "read", "cut")]
    write_failures(tmp_path / "failures.csv", failures)
    with (tmp_path / "failures.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [["path", "stage", "reason"], *([f.path, f.stage, f.reason] for f in failures)]
    write_failures(tmp_path / "failures.csv", [])
    assert (tmp_path / "failures.csv").read_text() == "path,stage,reason\n"
    assert [path.name for path in tmp_path.iterdir()] == ["failures.csv"]


def test_real_mudrock_keeps_samples_together(real_data):
    data = DataSettings(
        images=str(real_data / "mudrock/images"),
        masks=str(real_data / "mudrock/labels"),
        group=r"^(\d+)_\d+_[abc]$",
        splits={"test": ("11",)},
    )
    rows, failures, *_ = build_catalog(data)
    assert len(rows) == 239
    assert not failures
    assert all(row.mask.name == row.image.name for row in rows)
    assert all((row.split == "test") == row.name.startswith("11_") for row in rows)


def test_real_superalloy_and_coating_pair(real_data):
    folder = str(real_data / "superalloy")
    rows, failures, *_ = build_catalog(DataSettings(images=folder, masks=folder, mask_suffix="_mask"))
    assert len(rows) == 18
    assert not failures
    assert all(row.mask.stem == f"{row.image.stem}_mask" for row in rows)
    data = DataSettings(images=str(real_data / "coating/train"), masks=str(real_data / "coating/train_annot"))
    rows, failures, *_ = build_catalog(data)
    assert len(rows) == 12
    assert "010417#4_S2480009.tif" in [row.name for row in rows]
    assert not failures


# --- stratified splits ----------------------------------------------------------------------------------------------
def error_of(assigned: dict[str, str], counts: dict[str, np.ndarray]) -> float:
    splits = sorted(set(assigned.values()))
    return class_share_error(np.array([sum(counts[g] for g in counts if assigned[g] == split) for split in splits]))


@settings(max_examples=60, deadline=None)
@given(
    table=st.lists(st.tuples(*[st.integers(0, 1000)] * 3), min_size=1, max_size=14),
    seed=st.integers(0, 5),
    shares=SHARES,
    data=st.data(),
)
def test_trading_keeps_sizes_and_never_makes_it_worse(table, seed, shares, data):
    counts = {f"g{index:02}": np.array(line, np.int64) for index, line in enumerate(table)}
    before = assign(sorted(counts), {f"s{index}": share for index, share in enumerate(shares)}, seed)
    fixed = frozenset(data.draw(st.lists(st.sampled_from(sorted(counts)), unique=True)))
    after = stratify(before, counts, fixed)
    assert sorted(after.values()) == sorted(before.values())
    assert all(after[group] == before[group] for group in fixed)
    assert error_of(after, counts) <= error_of(before, counts) + 1e-9
    assert after == stratify(before, counts, fixed)


def classes_by_group(folder: Path) -> None:
    """Twelve groups of two micrographs; the rare class is in three groups only."""
    for part in ("i", "m"):
        (folder / part).mkdir()
    for group in range(12):
        for view in "ab":
            mask = np.zeros((20, 20), np.uint8)
            mask[: 4 if group % 4 == 0 else 0] = 1
            mask[-1] = 255
            Image.fromarray(mask).save(folder / "i" / f"{group:02}_{view}.png")
            Image.fromarray(mask).save(folder / "m" / f"{group:02}_{view}.png")


def test_stratified_splits_share_the_rare_class(tmp_path):
    classes_by_group(tmp_path)
    options = {
        "images": f"{tmp_path}/i",
        "masks": f"{tmp_path}/m",
        "group": r"^(\d+)",
        "splits": {"a": 1 / 3, "b": 1 / 3},
    }

    def split(seed: int, *, stratified: bool):
        rows, *_ = build_catalog(DataSettings(**options, seed=seed, stratify=stratified))
        counts = {row.group: np.array([320, 0] if int(row.group) % 4 else [240, 80]) for row in rows}
        assigned = {row.group: row.split for row in rows}
        assert all(row.split == assigned[row.group] for row in rows)
        return assigned, error_of(assigned, counts)

    plain = [split(seed, stratified=False)[1] for seed in range(5)]
    even = [split(seed, stratified=True) for seed in range(5)]
    assert all(error == pytest.approx(0) for _, error in even)
    assert max(plain) > 0.2
    assert even[0] == split(0, stratified=True)
    assert sorted(even[0][0].values()) == ["a"] * 4 + ["b"] * 4 + ["train"] * 4


def test_stratifying_needs_masks(tmp_path):
    tree(tmp_path, "a.tif")
    with pytest.raises(SettingsError, match=r"data.stratify: needs masks"):
        build_catalog(DataSettings(images=str(tmp_path), stratify=True))


# --- the table ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["catalog.csv", "sub/catalog.parquet"])
def test_a_table_gives_back_what_was_written(tmp_path, name):
    tree(tmp_path, "i/a, b#1.tif", "i/ü/c.tif", "m/a.png")
    rows = [
        CatalogRow("a, b#1.tif", tmp_path / "i/a, b#1.tif", tmp_path / "m/a.png", "g 1", "val", (0.5, 0.25)),
        CatalogRow("ü/c.tif", tmp_path / "i/ü/c.tif", None, "g2", "train"),
    ]
    write_catalog(tmp_path / name, rows, {"ü/c.tif": ((2.0, 2.0), "OME")})
    read = read_table(tmp_path / name)
    assert [(row.image, row.mask, row.group, row.split) for row in read] == [
        (row.image, row.mask, row.group, row.split) for row in rows
    ]
    assert [row.pixel_size_um for row in read] == [(0.5, 0.25), (2.0, 2.0)]
    again, failures, *_ = build_catalog(DataSettings(table=str(tmp_path / name)))
    assert sorted(again, key=lambda row: row.group) == read
    assert not failures


def test_what_a_table_leaves_open_is_settled_as_without_one(tmp_path):
    tree(tmp_path, *(f"{group}_{view}.tif" for group in "abcd" for view in "12"))
    lines = ["micrograph,split", *(f"{g}_{v}.tif,{'held' if g == 'a' else ''}" for g in "abcd" for v in "12")]
    (tmp_path / "c.csv").write_text("\n".join(lines))
    rows, *_ = build_catalog(DataSettings(table=str(tmp_path / "c.csv"), group="^(.)_", splits={"val": 0.3}))
    splits = {row.group: row.split for row in rows}
    assert len(rows) == 8
    assert splits["a"] == "held"
    assert sorted(splits.values()) == ["held", "train", "train", "val"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "line 1: no column named micrograph"),
        ("image\na.tif\n", "line 1: no column named micrograph, but image"),
        ("micrograph,splitt\na.tif,x\n", "line 1: there is no column 'splitt'"),
        ("micrograph\n", "no rows"),
        ("micrograph,split\na.tif\n", "line 2: 1 cells, but the header has 2"),
        ("micrograph,pixel_size_um\na.tif,1\nb.tif,0.5 um\n", "line 3: pixel_size_um is '0.5 um'"),
        ("micrograph,pixel_size_um\na.tif,nan\n", "line 2: pixel_size_um is 'nan'"),
        ("micrograph\na.tif\n./a.tif\n", "line 3: a.tif is in line 2 already"),
        ("micrograph,mask\na.tif,a.tif\n", "line 2: a.tif is its own mask"),
        ('micrograph\n"a.tif\n', "not a CSV"),
        ("micrograph,group,split\na.tif,1,x\nb.tif,1,y\n", "group '1' is in two splits: a.tif in x, b.tif in y"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_with_its_line(tmp_path, text, message):
    tree(tmp_path, "a.tif", "b.tif")
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        build_catalog(DataSettings(table=str(tmp_path / "c.csv")))
    assert "c.csv" in str(caught.value)


def test_a_missing_file_of_a_table_is_set_aside(tmp_path):
    tree(tmp_path, "a.tif")
    (tmp_path / "c.csv").write_text("micrograph,mask\na.tif,\nb.tif,\n")
    rows, failures, *_ = build_catalog(DataSettings(table=str(tmp_path / "c.csv")))
    assert [row.name for row in rows] == ["a.tif"]
    assert "b.tif: no such file" in failures[0].reason


def test_a_table_excludes_patterns():
    with pytest.raises(ValueError, match="replaces images and masks"):
        DataSettings(table="c.csv", images="i")


def test_the_catalog_job_writes_what_tile_and_people_read(tmp_path, pairs, microseg):
    def ran(*more: object):
        chosen = [
            "--images",
            pairs / "images",
            "--masks",
            pairs / "masks",
            "--group",
            r"^(\d+)_",
            "--splits",
            '{"val": 0.25}',
        ]
        return microseg("catalog", *chosen, "--output", tmp_path / "c.csv", *more)

    assert ran().code == 0
    rows, *_ = build_catalog(DataSettings(table=str(tmp_path / "c.csv")))
    expected, *_ = build_catalog(
        DataSettings(images=f"{pairs}/images", masks=f"{pairs}/masks", group=r"^(\d+)_", splits={"val": 0.25})
    )
    assert [(r.image, r.mask, r.group, r.split) for r in rows] == [
        (r.image, r.mask, r.group, r.split) for r in expected
    ]
    again = ran()
    assert again.code == 2
    assert "--overwrite" in again.err
    assert ran("--overwrite").code == 0
