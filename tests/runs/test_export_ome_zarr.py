"""A micrograph with its mask as labels under it: validated by two libraries, read by zarr, and compared pixel by pixel."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import ome_zarr_models.v05 as ome
import pytest
import tifffile
import yaozarrs
import zarr
from PIL import Image

from microseg_ray.runs.exports import ome_zarr
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.pyramid import halved, mode_downsample
from microseg_ray.settings import ClassSpec
from tests.finished_runs import finished_run

CLASSES = (ClassSpec(name="matrix", color="#102030"), ClassSpec(name="pore"))
SIZE = (0.4, 0.2)


def mask_of(shape):
    mask = np.random.default_rng(3).integers(0, 2, shape).astype(np.uint8)
    mask[-20:] = 255
    return mask


def run_of(folder, shapes):
    made = finished_run(folder, CLASSES, {name: (mask_of(shape), SIZE) for name, shape in shapes.items()}, 512)
    made.write_tables(made.names(), [])
    return made


def opened(path):
    """An image that two validators accept, with its labels."""
    yaozarrs.validate_zarr_store(path)
    group = zarr.open_group(path, mode="r")
    image = ome.Image.from_zarr(group)
    assert image.labels.label_paths == ["classes"]
    label = ome.ImageLabel.from_zarr(group["labels/classes"])
    assert label.ome_attributes.image_label.source.image == "../../"
    return group, image.ome_attributes, label.ome_attributes


def scales(attributes):
    return [each.coordinateTransformations[0].scale for each in attributes.multiscales[0].datasets]


def reasons(folder):
    with (folder / "failures.csv").open(newline="", encoding="utf-8") as file:
        return {(row["path"], row["stage"]): row["reason"] for row in csv.DictReader(file)}


def test_a_copy_holds_micrograph_and_mask_on_all_levels(tmp_path, microseg, tree_of):
    run = run_of(tmp_path, {"deep/a.tif": (700, 1100), "b.tif": (60, 70)})
    ran = microseg("export-run", "--run", run.folder, "--output", tmp_path / "o", "--format", "ome-zarr")
    assert (ran.code, "2 ome-zarr" in ran.out) == (0, True)
    group, image, label = opened(tmp_path / "o/ome-zarr/deep/a.tif.ome.zarr")
    expected, mask = tifffile.imread(tmp_path / "archive/deep/a.tif"), mask_of((700, 1100))
    assert scales(image) == scales(label) == [[0.4, 0.2], [0.8, 0.4], [1.6, 0.8]]
    assert [axis.unit for axis in image.multiscales[0].axes] == ["micrometer"] * 2
    for level in "012":
        np.testing.assert_array_equal(group[level][:], expected)
        np.testing.assert_array_equal(group[f"labels/classes/{level}"][:], mask)
        expected, mask = halved(expected[None])[0], mode_downsample(mask)
    assert [int(each.label_value) for each in label.image_label.colors] == [0, 1, 255]
    before = tree_of(tmp_path / "o")
    assert microseg("export-run", "--run", run.folder, "--output", tmp_path / "o", "--format", "ome-zarr").code == 0
    assert tree_of(tmp_path / "o") == before


def test_a_copy_of_a_colour_micrograph_has_its_channels(tmp_path, microseg):
    run = run_of(tmp_path, {"a.png.tif": (40, 50)})
    rgb = np.random.default_rng(0).integers(0, 256, (40, 50, 3)).astype(np.uint8)
    path = tmp_path / "archive/a.png.tif"
    Image.fromarray(rgb).save(path)
    ran = microseg("export-run", "--run", run.folder, "--output", tmp_path / "o", "--format", "ome-zarr")
    # Another file than the one that was segmented is never put under the older mask.
    assert ran.code == 3
    assert "has changed since" in reasons(tmp_path / "o")["a.png.tif", "export ome-zarr"]
    store = MaskStore.open(run.store_path("a.png.tif"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ome_zarr, "require_unchanged", lambda *_: None)
        ome_zarr.copy_image(tmp_path / "c.zarr", run, store, run.measured("a.png.tif"))
    group, image, _ = opened(tmp_path / "c.zarr")
    np.testing.assert_array_equal(group["0"][:], rgb.transpose(2, 0, 1))
    assert [axis.name for axis in image.multiscales[0].axes] == ["c", "y", "x"]
    assert scales(image) == [[1, 0.4, 0.2]]
    assert [each["color"] for each in group.attrs["ome"]["omero"]["channels"]] == ["FF0000", "00FF00", "0000FF"]


def test_links_lead_to_the_micrograph_and_the_mask_and_are_never_followed_to_delete(tmp_path, microseg, tree_of):
    run = run_of(tmp_path, {"deep/a.zarr": (700, 1100), "b.tif": (60, 70)})
    job = ("export-run", "--run", run.folder, "--output", tmp_path / "o", "--format", "ome-zarr", "--image", "link")
    archive, masks = tree_of(tmp_path / "archive"), tree_of(run.folder / "masks")
    ran = microseg(*job)
    assert ran.code == 3
    assert (
        "cannot refer to pixels of another format; take --image copy"
        in reasons(tmp_path / "o")["b.tif", "export ome-zarr"]
    )
    linked = tmp_path / "o/ome-zarr/deep/a.zarr.ome.zarr"
    group, image, label = opened(linked)
    source = zarr.open_group(tmp_path / "archive/deep/a.zarr", mode="r")
    np.testing.assert_array_equal(group["0"][:], source["0"][:])
    np.testing.assert_array_equal(group["labels/classes/0"][:], mask_of((700, 1100)))
    # As many levels as the image has; the pixel size is that of the run.
    assert len(scales(image)) == len(scales(label)) == len(source.attrs["ome"]["multiscales"][0]["datasets"])
    assert scales(image)[0][-2:] == scales(label)[0] == list(SIZE)
    assert not Path(linked / "0").readlink().is_absolute()
    assert (linked / "0").resolve() == tmp_path / "archive/deep/a.zarr/0"
    # All of it is moved together: links hold.
    moved = tmp_path.with_name("moved")
    shutil.copytree(tmp_path, moved, symlinks=True)
    again = zarr.open_group(moved / linked.relative_to(tmp_path), mode="r")
    np.testing.assert_array_equal(again["0"][:], source["0"][:])
    # Again, then as a copy, then of a run without it.
    assert microseg(*job).code == 3
    assert microseg(*job[:-1], "copy").code == 0
    assert not (linked / "0").is_symlink()
    assert microseg(*job).code == 3
    assert not (tmp_path / "o/ome-zarr/b.tif.ome.zarr").exists()
    assert (tree_of(tmp_path / "archive"), tree_of(run.folder / "masks")) == (archive, masks)


def test_what_cannot_be_linked_and_an_option_without_its_format_say_why(tmp_path, microseg):
    run = run_of(tmp_path, {"a.zarr": (60, 70), "c.zarr": (60, 70)})
    for name, version in (("a.zarr", 2), ("c.zarr", 3)):
        path = tmp_path / "archive" / name
        shutil.rmtree(path)
        zarr.create_array(str(path / "0"), data=np.zeros((60, 70), np.uint8), zarr_format=version)
        zarr.open_group(str(path), mode="a", zarr_format=version)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ome_zarr, "require_unchanged", lambda *_: None)
        ran = microseg(
            "export-run", "--run", run.folder, "--output", tmp_path / "o", "--format", "ome-zarr", "--image", "link"
        )
    assert ran.code == 3
    found = reasons(tmp_path / "o")
    assert "is OME-Zarr 0.4" in found["a.zarr", "export ome-zarr"]
    assert "is no OME-Zarr 0.5 image" in found["c.zarr", "export ome-zarr"]
    ran = microseg("export-run", "--run", run.folder, "--output", tmp_path / "o", "--image", "link")
    assert ran.code == 2
    assert "needs the format ome-zarr" in ran.err
