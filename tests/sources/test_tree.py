"""What a folder holds: links, hidden files and our own outputs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from microseg_ray.errors import InputError
from microseg_ray.outputs import Kind, claim
from microseg_ray.sources import list_files, survey_files, survey_inputs
from tests.sources.test_listing import tree

if TYPE_CHECKING:
    from pathlib import Path


def names(listing):
    return [name for name, _ in listing.entries]


def test_folders_behind_links_are_listed(tmp_path):
    tree(tmp_path / "elsewhere", "deep/a.tif", "b.png")
    tree(tmp_path / "archive", "z.tif", "list")
    (tmp_path / "archive" / "linked").symlink_to(tmp_path / "elsewhere")
    found = survey_inputs(tmp_path / "archive")
    assert names(found) == ["linked/b.png", "linked/deep/a.tif", "z.tif"]
    assert found.not_taken == (("list", "of no image format"),)


def test_links_in_a_circle_end_and_are_named(tmp_path):
    tree(tmp_path / "archive", "a/x.tif", "b/y.tif")
    (tmp_path / "archive" / "a" / "up").symlink_to(tmp_path / "archive")
    (tmp_path / "archive" / "out").symlink_to(tmp_path)
    (tmp_path / "archive" / "aa").symlink_to(tmp_path / "archive" / "b")
    (tmp_path / "archive" / "gone").symlink_to(tmp_path / "nowhere")
    found = survey_inputs(tmp_path / "archive")
    # A link that sorts before its folder does not rename what is in the folder.
    assert names(found) == ["a/x.tif", "b/y.tif"]
    reason = "link to a folder that is listed already"
    assert found.not_taken == (("a/up", reason), ("aa", reason), ("gone", "of no image format"), ("out", reason))


def test_a_glob_lists_each_folder_once(tmp_path):
    tree(tmp_path / "archive", "b/y.tif", "b/notes.txt")
    (tmp_path / "archive" / "a").symlink_to(tmp_path / "archive" / "b")
    (tmp_path / "archive" / "b" / "loop").symlink_to(tmp_path / "archive" / "b")
    found = survey_files(f"{tmp_path}/archive/**/*.tif")
    assert names(found) == ["b/y.tif"]
    assert ("a/y.tif", "link to a folder that is listed already") in found.not_taken


def run_in(folder: Path) -> None:
    """A run, as far as a listing sees it."""
    tree(folder, "masks/a.tif.zarr/c", "overlays/a.png", "report.html")
    (folder / "masks/a.tif.zarr/zarr.json").write_text(json.dumps({"attributes": {"microseg": {}}}))


@pytest.mark.parametrize("known_by", ["manifest", "run.json", "mark"])
def test_outputs_in_an_archive_are_left_out_and_said(known_by, tmp_path):
    tree(tmp_path, "a.tif")
    run_in(tmp_path / "run")
    if known_by == "manifest":
        claim(tmp_path / "run", "run", {})
        entries = {"masks": {"kind": "stores", "job": "run"}, "overlays/a.png": {"kind": "file", "job": "run"}}
        document = {"format": 1, "entries": entries}
        (tmp_path / "run" / ".microseg.json").write_text(json.dumps(document))
    elif known_by == "run.json":
        (tmp_path / "run" / "run.json").write_text(json.dumps({"identity": {}, "classes": []}))
    else:
        (tmp_path / "run" / "overlays" / "a.png").unlink()
    for where in (tmp_path, f"{tmp_path}/**"):
        found = survey_inputs(where)
        assert names(found) == ["a.tif"]
        assert any(reason == "output of microseg_ray" and name.startswith("run/") for name, reason in found.not_taken)
    # Masks are wanted where masks are listed, and what is named is taken.
    assert any("a.tif.zarr" in str(path) for path in list_files(tmp_path))
    assert survey_inputs(tmp_path / "run/masks/a.tif.zarr").entries


def test_only_outputs_is_an_error_that_says_so(tmp_path):
    run_in(tmp_path / "run")
    (tmp_path / "run" / "run.json").write_text(json.dumps({"identity": {}, "classes": []}))
    with pytest.raises(InputError, match=r"no images found but outputs of microseg_ray \(run/"):
        survey_inputs(tmp_path)


def test_simulated_micrographs_are_micrographs_and_their_masks_are_not(tmp_path):
    claim(tmp_path / "s", "simulate", dict.fromkeys(("images/a.tif", "masks/a.png"), Kind.FILE))
    tree(tmp_path / "s", "images/a.tif", "masks/a.png")
    assert names(survey_inputs(tmp_path / "s")) == ["images/a.tif"]
    assert names(survey_inputs(tmp_path / "s" / "masks")) == ["a.png"]
    tree(tmp_path / "links")
    (tmp_path / "links").mkdir()
    for part in ("images", "masks"):
        (tmp_path / "links" / part).symlink_to(tmp_path / "s" / part)
    found = survey_inputs(tmp_path / "links")
    assert names(found) == ["images/a.tif"]
    assert found.not_taken == (("masks/a.png", "output of microseg_ray"),)


def test_a_damaged_manifest_hides_nothing(tmp_path):
    tree(tmp_path, "a.tif")
    (tmp_path / ".microseg.json").write_text("{")
    assert names(survey_inputs(tmp_path)) == ["a.tif"]
