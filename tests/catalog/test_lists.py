"""Splits from text lists, as Pascal VOC has them, and micrographs from a text of paths."""

import numpy as np
import pytest
from PIL import Image

from microseg_ray.catalog import build_catalog, read_list, read_table, rows_of_lists
from microseg_ray.errors import InputError, SettingsError
from microseg_ray.settings import DataSettings
from microseg_ray.sources import list_files
from microseg_ray.tiles.store import TileStore


@pytest.fixture
def voc(tmp_path):
    """JPEGImages and SegmentationClassAug with three micrographs in two flips each."""
    for folder in ("JPEGImages", "SegmentationClassAug"):
        (tmp_path / folder).mkdir()
    for number in range(3):
        generator = np.random.default_rng(number)
        image = generator.integers(0, 255, (24, 32), np.uint8)
        mask = generator.integers(0, 3, (24, 32)).astype(np.uint8)
        for view, step in (("a", 1), ("b", -1)):
            # A PNG that is called .jpg; what is in a file counts.
            Image.fromarray(image[:, ::step]).save(tmp_path / f"JPEGImages/s_{number}_{view}.jpg", format="PNG")
            Image.fromarray(mask[:, ::step]).save(tmp_path / f"SegmentationClassAug/s_{number}_{view}.png")
    return tmp_path


def lists_of(voc, **lists):
    for split, names in lists.items():
        (voc / f"{split}.txt").write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return {split: str(voc / f"{split}.txt") for split in lists}


def data_of(voc, **changes):
    return DataSettings(images=str(voc / "JPEGImages"), masks=str(voc / "SegmentationClassAug"), **changes)


def test_good_ones_are_stored_bit_for_bit_and_bad_ones_reported(voc, microseg):
    (voc / "JPEGImages/broken.jpg").write_bytes(b"no picture")
    Image.fromarray(np.zeros((24, 32), np.uint8)).save(voc / "SegmentationClassAug/broken.png")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(voc / "SegmentationClassAug/s_1_a.png")
    lists_of(voc, train=["s_0_a", "missing", "s_1_a", "broken"], val=["s_2_a 1", "s_2_b 1"])
    ran = microseg(
        *(
            "catalog",
            "--images",
            voc / "JPEGImages",
            "--masks",
            voc / "SegmentationClassAug",
            "--output",
            voc / "t.csv",
        ),
        *("--lists", f'{{"train": "{voc}/train.txt", "val": "{voc}/val.txt"}}', "--group", "^(.+)_[ab]$|^broken$"),
    )
    assert ran.code == 3
    assert "missing" in ran.out
    assert "broken" in ran.out
    assert [(row.image.stem, row.split) for row in read_table(voc / "t.csv")] == [
        ("s_0_a", "train"), ("s_1_a", "train"), ("s_2_a", "val"), ("s_2_b", "val")
    ]  # fmt: skip
    ran = microseg(
        *("tile", "--table", voc / "t.csv", "--output", voc / "tiles", "--tile", 16, "--overlap", 0, "--workers", 0),
        *("--classes", '["clay", "silt", "pore"]'),
    )
    assert ran.code == 3
    assert "s_1_a" in (voc / "tiles/failures.csv").read_text(encoding="utf-8")
    store = TileStore.open(voc / "tiles")
    for index, row in enumerate(store.table.to_pylist()):
        stem = row["micrograph"].split("/")[-1].removesuffix(".jpg")
        place = np.s_[row["y0"] : row["y0"] + 16, row["x0"] : row["x0"] + 16]
        images, masks, _ = store.read([index])
        np.testing.assert_array_equal(images[0, 0], np.asarray(Image.open(voc / f"JPEGImages/{stem}.jpg"))[place])
        np.testing.assert_array_equal(masks[0], np.asarray(Image.open(voc / f"SegmentationClassAug/{stem}.png"))[place])


def test_a_micrograph_or_its_flip_in_two_lists_is_refused(voc):
    with pytest.raises(SettingsError, match="s_0_a is in train and again in val"):
        rows_of_lists(data_of(voc), lists_of(voc, train=["s_0_a"], val=["s_0_a"]))
    torn = lists_of(voc, train=["s_0_a", "s_1_a"], val=["s_0_b"])
    assert len(rows_of_lists(data_of(voc), torn)[0]) == 3
    with pytest.raises(SettingsError, match="group 's_0' is in two lists"):
        rows_of_lists(data_of(voc, group="^(.+)_[ab]$"), torn)


def test_names_of_two_files_need_their_folder(voc):
    (voc / "JPEGImages/more").mkdir()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(voc / "JPEGImages/more/s_0_a.png")
    data = DataSettings(images=str(voc / "JPEGImages"))
    rows, failures, *_ = rows_of_lists(data, lists_of(voc, val=["s_0_a", "more/s_0_a"]))
    assert [row.name for row in rows] == ["more/s_0_a.png"]
    assert "two images have this name" in failures[0].reason


@pytest.mark.parametrize(("text", "message"), [("", "empty"), ("\n \n", "empty"), ("a\na\n", "twice")])
def test_lists_that_are_none(tmp_path, text, message):
    (tmp_path / "l.txt").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_list(tmp_path / "l.txt")
    with pytest.raises(InputError, match="cannot be read"):
        read_list(tmp_path / "none.txt")


def test_a_text_of_paths_stands_in_for_a_folder(voc, checkpoint, microseg):
    (voc / "predict.txt").write_text(
        "JPEGImages/s_2_a.jpg\n\nJPEGImages/s_0_b.jpg\nJPEGImages/gone.jpg\n", encoding="utf-8"
    )
    assert [path.name for path in list_files(voc / "predict.txt")] == ["gone.jpg", "s_0_b.jpg", "s_2_a.jpg"]
    ran = microseg(
        *(
            "segment",
            "--archive",
            voc / "predict.txt",
            "--checkpoint",
            checkpoint,
            "--output",
            voc / "run",
            "--workers",
            0,
        )
    )
    assert ran.code == 3
    assert "gone.jpg" in (voc / "run/failures.csv").read_text(encoding="utf-8")
    assert {path.name for path in (voc / "run/masks/JPEGImages").iterdir()} == {"s_0_b.jpg.zarr", "s_2_a.jpg.zarr"}
    (voc / "JPEGImages/outside.txt").write_text("../SegmentationClassAug/s_0_a.png\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"line 1: .* lies outside"):
        list_files(voc / "JPEGImages/outside.txt")


def test_80_15_5_by_micrograph_and_by_sample(real_data):
    def splits(group):
        folder = real_data / "mudrock"
        shares = {"val": 0.15, "test": 0.05}
        data = DataSettings(images=str(folder / "images"), masks=str(folder / "labels"), group=group, splits=shares)
        rows, failures, *_ = build_catalog(data)
        assert not failures
        assert rows == build_catalog(data)[0]
        return {split: {row.group for row in rows if row.split == split} for split in ("train", "val", "test")}, rows

    # 239 files: 79 micrographs in three views and one in two.
    found, rows = splits(r"^(\d+_\d+)_")
    assert {split: len(groups) for split, groups in found.items()} == {"train": 64, "val": 12, "test": 4}
    assert all(row.group == row.image.stem.rsplit("_", 1)[0] for row in rows)
    assert not found["train"] & found["test"] | found["train"] & found["val"] | found["val"] & found["test"]
    found, rows = splits(r"^(\d+)_")
    assert {split: len(groups) for split, groups in found.items()} == {"train": 6, "val": 1, "test": 1}
