"""`microseg annotate`: pairing, overlaps, what is left out and listed, exit codes, presets."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.draw import polygon as skimage_polygon

from microseg_ray.annotations import annotate
from microseg_ray.annotations.matching import ImageIndex, NoMatchError, RefusedNameError
from microseg_ray.annotations.writing import write_mask
from microseg_ray.errors import SettingsError
from microseg_ray.settings import AnnotateSettings, load_settings
from microseg_ray.settings.annotate import PRESETS
from microseg_ray.sources import read_mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from microseg_ray.geometry import Box

from tests.annotations.drawn import LEFT, RIGHT, SIDE, add_image, polygon, run, write_via

ODD_NAME = "run #2 (ä) 100%.v1.png"


def filled(shape: dict[str, Any], side: int = SIDE) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[skimage_polygon(shape["all_points_y"], shape["all_points_x"], mask.shape)] = True
    return mask


def test_the_fractography_preset_gives_the_earlier_systems_label_values(images: Path, tmp_path: Path) -> None:
    via = write_via(
        tmp_path / "via.json",
        **{"a.png": [(LEFT, {"name": "i"}), (polygon((45, 2), (60, 2), (60, 18)), {"name": "t"})]},
    )
    report, masks = run(images, via, tmp_path, preset="fractography", classes=PRESETS["fractography"]["classes"])
    expected = np.zeros((SIDE, SIDE), np.uint8)
    expected[filled(LEFT)] = 2
    expected[filled(polygon((45, 2), (60, 2), (60, 18)))] = 1
    assert (masks["a.png"] == expected).all()
    assert report.classes == ("background", "transgranular", "intergranular")
    assert [line.mask for line in report.masks] == ["a.png"]


@pytest.mark.parametrize(
    ("names", "overlap"), [("ii", 2), ("it", 2), ("ti", 2), ("ttt", 1), ("tttt", 1), ("tit", 2), ("iii", 2)]
)
def test_the_fractography_winner_rule_holds_in_every_overlap(
    names: str, overlap: int, images: Path, tmp_path: Path
) -> None:
    via = write_via(tmp_path / "via.json", **{"a.png": [(LEFT, {"name": name}) for name in names]})
    _, masks = run(images, via, tmp_path, preset="fractography", classes=PRESETS["fractography"]["classes"])
    assert (masks["a.png"] == np.where(filled(LEFT), overlap, 0)).all()


def test_the_later_region_wins_or_the_stronger_class(images: Path, tmp_path: Path) -> None:
    via = write_via(tmp_path / "via.json", **{"a.png": [(LEFT, {"name": "i"}), (RIGHT, {"name": "t"})]})
    both = filled(LEFT) & filled(RIGHT)
    assert both.any()
    assert (run(images, via, tmp_path)[1]["a.png"][both] == 1).all()
    assert (run(images, via, tmp_path, priority=["i", "t"])[1]["a.png"][both] == 2).all()


def test_everything_that_is_left_out_is_listed(images: Path, tmp_path: Path, microseg: Callable[..., Any]) -> None:
    for name in ("empty.png", "nobody.png", ODD_NAME):
        add_image(images / name)
    outside = polygon((-9, 10), (80, 10), (80, 20), (-9, 20))
    drawn = [
        (LEFT, {"name": "i"}),
        (outside, {"name": "t"}),
        (LEFT, {"name": "crack"}),
        (LEFT, {"name": "crack"}),
        (LEFT, {}),
        (polygon((1, 1), (2, 2)), {"name": "i"}),
        (polygon((1, 1), (2, float("nan")), (3, 3)), {"name": "i"}),
        (polygon((-50, -50), (-40, -50), (-40, -40)), {"name": "i"}),
        ({"name": "point", "cx": 1, "cy": 1}, {"name": "i"}),
    ]
    entries = {"a.png": drawn, "empty.png": [], ODD_NAME: [(RIGHT, {"name": "i"})], "gone.png": drawn}
    entries |= {"../a.png": drawn, "/etc/a.png": drawn, "C:\\x\\a.png": drawn, "http://x/a.png": drawn}
    via = write_via(tmp_path / "via.json", **entries)
    options = ("--images", images, "--annotations", via, "--classes", '["matrix","t","i"]', "--attribute", "name")
    done = microseg("annotate", *options, "--output", tmp_path / "masks")
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "masks" / "report.json").read_text(encoding="utf-8"))
    assert report["unknown_classes"] == {"crack": 2, "(none)": 1}
    assert report["images_without_regions"] == ["empty.png"]
    assert report["images_without_annotation"] == ["nobody.png"]
    assert report["annotations_without_image"] == [["via.json: gone.png", "no image of this name"]]
    assert [reason for _, reason in report["refused_names"]] == [
        "the name leaves its folder",
        "the name is an absolute path",
        "the name is an absolute path",
        "the name is a URL",
    ]
    assert report["clipped_regions"] == ["via.json: a.png: region 2"]
    assert [place[-8:] for place, _ in report["skipped_regions"]] == ["region 6", "region 7", "region 8"]
    assert report["ignored_shapes"] == {"point": 1}
    masks = {line["image"]: line["mask"] for line in report["masks"]}
    assert masks == {"a.png": "a.png", ODD_NAME: ODD_NAME}
    found = read_mask(tmp_path / "masks" / "a.png")
    assert (found == np.where(filled(outside), 1, np.where(filled(LEFT), 2, 0))).all()
    assert [line["regions"] for line in report["totals"]] == [0, 1, 2]
    assert sum(line["fraction"] for line in report["totals"]) == pytest.approx(1, abs=1e-9)
    assert "3 regions of unknown class, not drawn: crack: 2 (none): 1" in done.out
    assert "1 images without regions: empty.png" in done.out
    strict = microseg("annotate", *options, "--output", tmp_path / "masks", "--overwrite", "--strict")
    assert strict.code == 1
    assert "strict: 3 regions of unknown class" in strict.out
    assert (read_mask(tmp_path / "masks" / "a.png") == found).all()


def test_strict_is_content_where_nothing_was_left_out(
    images: Path, tmp_path: Path, microseg: Callable[..., Any]
) -> None:
    via = write_via(tmp_path / "via.json", **{"a.png": [(LEFT, {"name": "i"})]})
    options = ("--images", images, "--annotations", via, "--classes", '["matrix","i"]', "--output", tmp_path / "masks")
    assert microseg("annotate", *options, "--strict").code == 0


def test_unlabelled_pixels_and_empty_images_as_the_settings_say(images: Path, tmp_path: Path) -> None:
    add_image(images / "b.png")
    via = write_via(tmp_path / "via.json", **{"a.png": [(LEFT, {"name": "i"})], "b.png": []})
    _, masks = run(images, via, tmp_path, unlabelled="ignore", empty="unlabelled")
    assert (masks["a.png"] == np.where(filled(LEFT), 2, 255)).all()
    assert (masks["b.png"] == 255).all()
    _, masks = run(images, via, tmp_path, unlabelled="t", class_values={"i": "ignore"})
    assert (masks["a.png"] == np.where(filled(LEFT), 255, 1)).all()


def test_a_damaged_image_is_quarantined_and_the_rest_is_done(
    images: Path, tmp_path: Path, microseg: Callable[..., Any]
) -> None:
    (images / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (images / "zero.png").write_bytes(b"")
    names = ("a.png", "bad.png", "zero.png")
    via = write_via(tmp_path / "via.json", **{name: [(LEFT, {"name": "i"})] for name in names})
    options = ("--images", images, "--annotations", via, "--classes", '["matrix","i"]', "--output", tmp_path / "masks")
    done = microseg("annotate", *options)
    assert done.code == 3
    assert "2 quarantined" in done.out
    assert "the file is empty (0 bytes)" in done.out
    assert (tmp_path / "masks" / "failures.csv").read_text(encoding="utf-8").count("\n") == 3
    assert (tmp_path / "masks" / "a.png").is_file()


def test_an_annotation_of_another_size_is_quarantined(images: Path, tmp_path: Path) -> None:
    document = {"shapes": [], "imageHeight": 32, "imageWidth": 64}
    (tmp_path / "a.json").write_text(json.dumps(document), encoding="utf-8")
    report, masks = run(images, tmp_path / "a.json", tmp_path)
    assert not masks
    assert "a.json is for (32, 64) px (height, width), the image has (64, 64)" in report.failures[0][2]


def test_one_bad_annotation_file_of_many_is_quarantined_and_a_lone_one_stops_the_job(
    images: Path, tmp_path: Path, microseg: Callable[..., Any]
) -> None:
    folder = tmp_path / "labelme"
    folder.mkdir()
    shape = {"label": "i", "points": [[5, 5], [40, 5], [40, 40], [5, 40]], "shape_type": "polygon"}
    (folder / "a.json").write_text(json.dumps({"shapes": [shape], "imagePath": "..\\x.png"}), encoding="utf-8")
    (folder / "b.json").write_text('{"shapes": 3}', encoding="utf-8")
    report, masks = run(images, folder, tmp_path)
    assert (masks["a.png"] == np.where(filled(LEFT), 2, 0)).all()
    assert [(Path(path).name, stage) for path, stage, _ in report.failures] == [("b.json", "annotation")]
    options = ("--images", images, "--classes", '["matrix","i"]', "--output", tmp_path / "out")
    done = microseg("annotate", *options, "--annotations", folder / "b.json")
    assert done.code == 1
    assert "b.json: at shapes: Input should be a valid list" in done.err


def test_two_images_of_one_stem_are_set_aside(images: Path, tmp_path: Path) -> None:
    tifffile.imwrite(images / "a.tif", np.zeros((SIDE, SIDE), np.uint8))
    via = write_via(tmp_path / "via.json", **{"a.png": [(LEFT, {"name": "i"})]})
    report, masks = run(images, via, tmp_path)
    assert not masks
    assert len(report.failures) == 2
    assert all("its mask would be named as that of" in reason for _, _, reason in report.failures)


def test_output_never_overwrites_by_accident(images: Path, tmp_path: Path) -> None:
    via = write_via(tmp_path / "via.json", **{"a.png": [(LEFT, {"name": "i"})]})
    given = {"annotations": str(via), "classes": ["matrix", "i"], "images": str(images)}
    for output, message in ((images, "holds the images"), (tmp_path, "holds the images"), (images / "m", "lies in")):
        with pytest.raises(SettingsError, match=message):
            annotate(AnnotateSettings(output=str(output), **given))
    output = tmp_path / "masks"
    annotate(AnnotateSettings(output=str(output), **given))
    with pytest.raises(SettingsError, match="is not empty; give another folder, or --overwrite"):
        annotate(AnnotateSettings(output=str(output), **given))
    # What an earlier run wrote and this one does not is gone; what somebody else put there stays.
    (output / "mine.txt").write_text("x", encoding="utf-8")
    write_via(via, **{"a.png": []})
    annotate(AnnotateSettings(output=str(output), overwrite=True, **given))
    books, tables = {".lock", ".microseg.json"}, {"report.json", "failures.csv", "accounting.csv"}
    assert {path.name for path in output.iterdir()} == books | tables | {"mine.txt"}


def test_masks_keep_folders_and_stems(images: Path, tmp_path: Path) -> None:
    add_image(images / "2019 (b)" / "x.y.png")
    via = write_via(tmp_path / "via.json", **{"./data/2019 (b)/x.y.jpg": [(LEFT, {"name": "i"})]})
    report, _ = run(images, via, tmp_path)
    assert [line.mask for line in report.masks] == ["2019 (b)/x.y.png"]


def test_a_name_means_one_image_or_none() -> None:
    root = Path("/a")
    index = ImageIndex([root / "train/x.png", root / "test/x.png", root / "test/z.tif"], root)
    assert index.named("x/train/x.png") == root / "train/x.png"
    assert index.named("data\\test\\x.jpg") == root / "test/x.png"
    assert index.named("z.png") == root / "test/z.tif"
    for name, problem in (("x.png", "fits 2 images"), ("y.png", "no image"), ("", "no image"), (".", "no image")):
        with pytest.raises(NoMatchError, match=problem):
            index.named(name)
    for name in ("..", "a/../x.png", "~/x.png", "\\\\host\\x.png", "x\0.png"):
        with pytest.raises(RefusedNameError):
            index.named(name)


def test_a_large_mask_becomes_a_tiled_tiff_with_the_same_pixels(tmp_path: Path) -> None:
    mask = np.random.default_rng(0).integers(0, 3, (1300, 700)).astype(np.uint8)

    def read(box: Box) -> np.ndarray:
        return mask[box.slices]

    png, counts = write_mask(tmp_path / "a", mask.shape, read)
    tif, same = write_mask(tmp_path / "a", mask.shape, read, png_pixels=1000)
    assert (png.name, tif.name) == ("a.png", "a.tif")
    assert (read_mask(png) == mask).all()
    assert (read_mask(tif) == mask).all()
    with tifffile.TiffFile(tif) as file:
        assert file.is_bigtiff
        assert file.pages[0].is_tiled
    assert counts[:4].tolist() == same[:4].tolist() == np.bincount(mask.ravel(), minlength=4).tolist()


def test_a_palette_keeps_its_numbers_and_values_can_be_mapped(images: Path, tmp_path: Path) -> None:
    numbers = np.zeros((SIDE, SIDE), np.uint8)
    numbers[10:20], numbers[20:30], numbers[30:40] = 1, 2, 7
    folder = tmp_path / "labels"
    folder.mkdir()
    image = Image.frombytes("P", (SIDE, SIDE), numbers.tobytes())
    image.putpalette([200, 10, 10] * 256)
    image.save(folder / "a.png")
    report, masks = run(images, folder, tmp_path, format="index")
    assert (masks["a.png"] == np.where(numbers == 7, 255, numbers)).all()
    assert report.unmatched_pixels == Counter({"7": 10 * SIDE})
    _, masks = run(images, folder, tmp_path, format="index", class_values={"0": "i", "1": "t", "7": "ignore", "2": "i"})
    assert (masks["a.png"] == np.choose(np.searchsorted([0, 1, 2, 7], numbers), [2, 1, 2, 255])).all()
    report, masks = run(images, folder, tmp_path, format="index", offset=-1)
    assert (masks["a.png"] == np.choose(np.searchsorted([0, 1, 2, 7], numbers), [255, 0, 1, 255])).all()


def test_segmentation_masks_of_cvat(images: Path, tmp_path: Path) -> None:
    export = tmp_path / "cvat"
    (export / "SegmentationClass").mkdir(parents=True)
    (export / "SegmentationObject").mkdir()
    (export / "labelmap.txt").write_text(
        "# label:color_rgb:parts:actions\nbackground:0,0,0::\nsilt:250,50,83::\n", encoding="utf-8"
    )
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    pixels[5:9] = (250, 50, 83)
    pixels[20] = (1, 2, 3)
    for kind in ("Class", "Object"):
        Image.fromarray(pixels).save(export / f"Segmentation{kind}" / "a.png")
    report, masks = run(images, export, tmp_path, classes=["clay", "silt"])
    assert report.format == "cvat_mask"
    expected = np.zeros((SIDE, SIDE), np.uint8)
    expected[5:9], expected[20] = 1, 255
    assert (masks["a.png"] == expected).all()
    assert report.unmatched_pixels == Counter({"#010203": SIDE})


def test_a_jpeg_or_a_missing_partner_is_named(images: Path, tmp_path: Path) -> None:
    add_image(images / "b.png")
    add_image(images / "c.png")
    folder = tmp_path / "labels"
    folder.mkdir()
    Image.fromarray(np.zeros((SIDE, SIDE, 3), np.uint8)).save(folder / "a.jpg")
    Image.fromarray(np.zeros((SIDE, SIDE // 2), np.uint8)).save(folder / "b.png")
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(folder / "d.png")
    report, masks = run(images, folder, tmp_path, format="colors", other="matrix")
    assert not masks
    assert report.images_without_annotation == ["c.png"]
    assert [(Path(path).name, reason) for path, reason in report.annotations_without_image] == [
        ("d.png", "no image named d")
    ]
    reasons = {Path(path).name: reason for path, _, reason in report.failures}
    assert "JPEG" in reasons["a.png"]
    assert "has (64, 32) px (height, width), the image has (64, 64)" in reasons["b.png"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"classes": []}, "classes: missing"),
        ({"priority": ["x"]}, "priority: no class 'x'"),
        ({"class_values": {"i": "x"}}, "class_values: no class 'x'"),
        ({"other": "x"}, "other: no class 'x'"),
        ({"colors": {"red": "i"}}, "'red' is no colour"),
        ({"colors": {"#ff0000": "i", "#FF0000": "t"}}, "is here twice"),
        ({"format": "thresholds"}, "thresholds: missing"),
        ({"annotations": None}, "annotations: missing"),
        ({"thresholds": [{"name": "i", "above": 3, "at_least": 2}]}, "not both of a pair"),
        ({"thresholds": [{"name": "i", "above": 3, "below": 2}]}, "nothing lies above"),
        ({"preset": "ccd_v9"}, "preset"),
    ],
)
def test_impossible_settings_are_named(values: dict[str, Any], message: str) -> None:
    good = {"images": "x", "annotations": "y", "output": "z", "classes": ["i", "t"]}
    with pytest.raises(ValueError, match=message):
        AnnotateSettings(**{**good, **values})


def test_what_the_user_says_wins_over_the_preset(tmp_path: Path) -> None:
    config = tmp_path / "a.yaml"
    config.write_text("annotate: {preset: fractography, images: x, annotations: y, output: z}\n", encoding="utf-8")
    settings = load_settings(AnnotateSettings, [], config)
    assert (settings.format, settings.priority) == ("via", ("intergranular", "transgranular"))
    settings = load_settings(
        AnnotateSettings, ["--attribute", "kind", "--class_values", '{"x": "intergranular"}'], config
    )
    assert (settings.attribute, settings.class_values) == ("kind", {"x": "intergranular"})
    assert [item.name for item in settings.classes] == ["background", "transgranular", "intergranular"]
