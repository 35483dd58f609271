"""Listing and fingerprints, of local files and of URLs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from microseg_ray.errors import InputError
from microseg_ray.sources import fingerprint, list_files, listing_root
from tests.source_files import DEEP, damage, raw, zarr_array

if TYPE_CHECKING:
    from pathlib import Path


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_folders_are_searched_and_stores_are_one_entry(tmp_path):
    tree(
        tmp_path,
        "b/ä (1)#2.TIF",
        "a.png",
        ".hidden.png",
        ".git/c.png",
        "s.zarr/0/x.png",
        "s.zarr/zarr.json",
        "notes.txt",
    )
    found = [path.relative_to(tmp_path).as_posix() for path in list_files(tmp_path)]
    assert found == ["a.png", "b/ä (1)#2.TIF", "s.zarr"]
    assert list_files(tmp_path / "s.zarr") == [tmp_path / "s.zarr"]
    assert [path.name for path in list_files(tmp_path, suffixes=(".png",))] == ["a.png"]


def test_globs_and_names_that_look_like_globs(tmp_path):
    tree(tmp_path, "x/a[1].tif", "x/b.tif", "y/c.tif", "y/d.txt", "y/.e.tif", "y/s.zarr/f.tif")
    assert [path.name for path in list_files(f"{tmp_path}/*/*.tif")] == ["a[1].tif", "b.tif", "c.tif"]
    assert [path.name for path in list_files(f"{tmp_path}/**")] == ["a[1].tif", "b.tif", "c.tif", "s.zarr"]
    assert list_files(tmp_path / "x" / "a[1].tif") == [tmp_path / "x" / "a[1].tif"]
    assert listing_root(f"{tmp_path}/*/*.tif") == tmp_path
    assert listing_root(tmp_path / "x") == tmp_path / "x"
    assert listing_root(tmp_path / "x" / "a[1].tif") == tmp_path / "x"
    assert listing_root(tmp_path / "y" / "s.zarr") == tmp_path / "y"


def test_relative_paths_become_absolute(tmp_path, monkeypatch):
    tree(tmp_path, "x/a.tif")
    monkeypatch.chdir(tmp_path)
    assert list_files("x") == list_files("x/*.tif") == list_files("x/a.tif") == [tmp_path / "x" / "a.tif"]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("no", "no such file or folder"),
        ("x", r"no images found; supported are \.tif, \.tiff"),
        ("x/*.tif", r"no images found; supported"),
        ("https://example.org/x", "a URL cannot be used here; copy the files"),
    ],
)
def test_nothing_to_list_is_an_error(tmp_path, monkeypatch, where, message):
    monkeypatch.chdir(tree(tmp_path, "x/notes.txt"))
    with pytest.raises(InputError, match=message):
        list_files(where)


@pytest.mark.parametrize("kind", ["stat", "content"])
def test_fingerprints_notice_changes(tmp_path, kind):
    path, _ = zarr_array(DEEP, chunks=(32, 40))(tmp_path)
    chunk = path / "c" / "0" / "0"
    before = fingerprint(path, kind), fingerprint(chunk, kind)
    assert before == (fingerprint(path, kind), fingerprint(chunk, kind))
    damage(chunk, 0.5)
    after = fingerprint(path, kind), fingerprint(chunk, kind)
    assert before[0] != after[0]
    assert before[1] != after[1]
    pattern = r"stat:\d+:\w+" if kind == "stat" else r"sha256:[0-9a-f]{64}"
    assert all(re.fullmatch(pattern, text) for text in before)


def test_a_content_fingerprint_does_not_depend_on_time_or_place(tmp_path):
    one, two = raw(tmp_path / "a.bin", b"same"), raw(tmp_path / "b.bin", b"same")
    assert fingerprint(one, "content") == fingerprint(two, "content")
    with pytest.raises(InputError, match="cannot be read"):
        fingerprint(tmp_path / "no", "stat")
