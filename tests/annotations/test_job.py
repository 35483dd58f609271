"""`microseg annotate`: pairing, overlaps, what is left out and listed, exit codes, presets, real data."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image
from skimage.draw import polygon as skimage_polygon

from microseg_ray.annotations import ReadOptions, annotate
from microseg_ray.annotations.matching import ImageIndex, NoMatchError, RefusedNameError
from microseg_ray.annotations.readers.coco import read_coco
from microseg_ray.annotations.writing import write_mask
from microseg_ray.errors import InputError, SettingsError
from microseg_ray.geometry import Box
from microseg_ray.settings import AnnotateSettings, load_settings
from microseg_ray.settings.annotate import PRESETS
from microseg_ray.sources import read_mask

if TYPE_CHECKING:
    from collections.abc import Callable

    from microseg_ray.annotations import AnnotationReport

REPOSITORY = Path(__file__).resolve().parents[2]
SIDE = 64
ODD_NAME = "run #2 (ä) 100%.v1.png"


def polygon(*points: tuple[float, float]) -> dict[str, Any]:
    return {"name": "polygon", "all_points_x": [x for x, _ in points], "all_points_y": [y for _, y in points]}


LEFT = polygon((5, 5), (40, 5), (40, 40), (5, 40))
RIGHT = polygon((25, 20), (60, 25), (55, 60), (20, 50))


def filled(shape: dict[str, Any], side: int = SIDE) -> np.ndarray:
    mask = np.zeros((side, side), bool)
    mask[skimage_polygon(shape["all_points_y"], shape["all_points_x"], mask.shape)] = True
    return mask


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with one micrograph of 64 px."""
    folder = tmp_path / "images"
    add_image(folder / "a.png")
    return folder


def add_image(path: Path, side: int = SIDE) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(side * side, dtype=np.uint32).astype(np.uint8).reshape(side, side)).save(path)


def write_via(path: Path, **regions: list[tuple[dict[str, Any], dict[str, Any]]]) -> Path:
    entries = {}
    for name, drawn in regions.items():
        parts = [{"shape_attributes": shape, "region_attributes": attributes} for shape, attributes in drawn]
        entries[f"{name}1"] = {"filename": name, "size": 1, "regions": parts}
    path.write_text(json.dumps(entries), encoding="utf-8")
    return path


def run(
    images: Path, annotations: Path, tmp_path: Path, **options: Any
) -> tuple[AnnotationReport, dict[str, np.ndarray]]:
    output = tmp_path / f"masks{len(list(tmp_path.glob('masks*')))}"
    options = {"classes": ["matrix", "t", "i"], **options}
    report = annotate(AnnotateSettings(images=str(images), annotations=str(annotations), output=str(output), **options))
    return report, {line.image: read_mask(output / line.mask) for line in report.masks}


# Acceptance F1 and F3.


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
    assert sorted(path.name for path in output.iterdir()) == [".microseg.json", "mine.txt", "report.json"]


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


# Annotation images.


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


# The real data, each set with its config.


def from_config(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> AnnotationReport:
    # Paths in a config are relative to where the job is started.
    monkeypatch.chdir(REPOSITORY)
    config = REPOSITORY / "configs" / f"{name}.yaml"
    output = ["--output", str(tmp_path / "masks")]
    return annotate(load_settings(AnnotateSettings, [*output, *more], config))


@pytest.mark.parametrize(
    ("name", "images", "pixels", "unmatched"),
    [
        ("ccd_v0", 12, (757434, 22597, 3267, 3134), 0),
        ("ccd", 60, (1609347, 985674, 841035, 496004), 100),
        ("coating", 16, (13795860, 2931777, 49579), 0),
        ("superalloy", 18, (2280465, 2332325, 105802), 0),
    ],
)
@pytest.mark.usefixtures("real_data")
def test_class_pixels_of_the_real_data(
    name: str, images: int, pixels: tuple[int, ...], unmatched: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = from_config(name, tmp_path, monkeypatch)
    assert (len(report.masks), report.pixels) == (images, pixels)
    assert (sum(report.unmatched_pixels.values()), report.ignored) == (unmatched, unmatched)
    assert set(report.problems) == ({"pixels that fit no rule"} if unmatched else set())
    shares = np.array([share for share in report.fractions if share is not None])
    assert shares.sum() == pytest.approx(1, abs=1e-12)
    print(name, dict(zip(report.classes, shares.round(4).tolist(), strict=True)))


def test_class_weights_of_the_ccd_images(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # System 3: percentages rounded to two decimals, then inverted and scaled to add up to the number of classes.
    assert real_data.is_dir()
    expected = {"ccd": (0.513, 0.838, 0.982, 1.666), "ccd_v0": (0.008, 0.266, 1.818, 1.908)}
    for name, weights in expected.items():
        report = from_config(name, tmp_path / name, monkeypatch)
        percent = np.round(np.array(report.pixels) / (sum(report.pixels) + report.ignored) * 100, 2)
        assert (1 / percent / (1 / percent).sum() * 4).round(3).tolist() == list(weights)


def test_sixteen_bit_superalloy_files_give_the_same_masks(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "deep"
    for number, image in enumerate(sorted((real_data / "superalloy" / "test").glob("*.tif"))):
        mask = real_data / "superalloy" / "test_annot" / f"{image.stem}_mask.tif"
        (root / "test").mkdir(parents=True, exist_ok=True)
        tifffile.imwrite(root / "test" / image.name, tifffile.imread(image).astype(np.uint16) * 257, photometric="rgb")
        deep = tifffile.imread(mask).astype(np.uint16) * 257
        if number == 0:
            (root / "test" / f"{image.stem}_mask.png").write_bytes(imagecodecs.png_encode(deep))
        else:
            tifffile.imwrite(root / "test" / mask.name, deep, photometric="rgb", extrasamples=["unassalpha"])
    where = ["--images", f"{root}/test", "--annotations", f"{root}/test"]
    report = from_config("superalloy", tmp_path, monkeypatch, *where)
    assert (len(report.masks), report.problems, report.failures) == (4, {}, [])
    # Images and annotations lie in one folder here, and no annotation was taken for an image.
    assert report.images == 4
    for line in report.masks:
        stem = Path(line.image).stem
        shown = tifffile.imread(real_data / "superalloy" / "test_annot" / f"{stem}_mask.tif")[..., :3].astype(int)
        expected = np.where((shown == (0, 0, 255)).all(-1), 1, np.where((shown == (255, 0, 0)).all(-1), 2, 0))
        assert (read_mask(tmp_path / "masks" / line.mask) == expected).all()


def test_melt_pools_have_the_areas_that_coco_says(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = from_config("meltpool", tmp_path, monkeypatch)
    assert (len(report.masks), report.regions, report.problems) == (34, Counter({"melt pool": 188}), {})
    document = json.loads((real_data / "meltpool" / "coco.json").read_text(encoding="utf-8"))
    regions = [
        region
        for drawing in read_coco(real_data / "meltpool" / "coco.json", ReadOptions())
        for region in drawing.regions
    ]
    image = Box(0, 0, 512, 512)
    raster = {region.where.rsplit(".", 1)[1]: region.shape.fill(image).sum() for region in regions}
    drawn = np.array([raster[str(place)] for place in range(len(document["annotations"]))])
    stated = np.array([one["area"] for one in document["annotations"]])
    assert drawn.sum() == pytest.approx(stated.sum(), rel=0.001)
    # A few small ones are a few pixels off.
    assert (np.abs(drawn - stated) <= np.maximum(0.01 * stated, 20)).all()
    assert (np.abs(drawn - stated) <= 0.01 * stated).mean() > 0.97
    # Masks hold the union, and melt pools hardly overlap.
    assert report.pixels[1] == pytest.approx(stated.sum(), rel=0.01)
    print("meltpool", report.pixels, report.fractions)


def write_rois(path: Path, *rois: tuple[str, dict[str, int]]) -> Path:
    """A ZIP of squares of 10 px, by name, each at a place in a stack; no two squares touch."""
    from roifile import ImagejRoi

    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, place) in enumerate(rois):
            x, y = 15 * (number % 4), 15 * (number // 4)
            corners = np.array([[x, y], [x + 10, y], [x + 10, y + 10], [x, y + 10]], np.float32)
            roi = ImagejRoi.frompoints(corners, name=name)
            for key, value in place.items():
                setattr(roi, key, value)
            archive.writestr(f"{name}.roi", roi.tobytes())
    return path


@pytest.fixture
def stack(tmp_path: Path) -> Path:
    folder = tmp_path / "stack"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", np.zeros((3, SIDE, SIDE), np.uint8), photometric="minisblack")
    return folder


@pytest.mark.parametrize("key", ["position", "z_position", "t_position"])
def test_regions_of_other_pages_are_not_drawn_but_listed(stack: Path, tmp_path: Path, key: str) -> None:
    rois = [("i-1", {key: 1}), ("i-2", {key: 2}), ("t-3", {key: 3}), ("t-4", {})]
    zipped = write_rois(tmp_path / "a.zip", *rois)
    for page in range(3):
        report, masks = run(stack, zipped, tmp_path, source={"page": page})
        drawn = {corner: int(masks["a.tif"][5, 5 + 15 * corner]) for corner in range(4)}
        own = [2, 2, 1][page]
        assert drawn == {corner: own if corner == page else 1 if corner == 3 else 0 for corner in range(4)}
        assert len(report.other_pages) == 2
        assert report.problems["regions of other pages"] == 2


def test_regions_of_other_pages_alone_are_no_mask(stack: Path, tmp_path: Path, microseg: Callable[..., Any]) -> None:
    zipped = write_rois(tmp_path / "a.zip", ("i-1", {"position": 3}), ("t", {"z_position": 2, "t_position": 2}))
    options = ("--images", stack, "--annotations", zipped, "--classes", '["matrix","t","i"]')
    done = microseg("annotate", *options, "--output", tmp_path / "masks")
    assert done.code == 3
    assert "page 0 is read, and they are on 2; give --source.page 2" in done.out
    assert "it is on slice 2 of frame 2" in done.out
    assert not list((tmp_path / "masks").glob("*.png"))


def test_frames_of_a_coco_file_are_pages(stack: Path, tmp_path: Path) -> None:
    def document(**keys: Any) -> Path:
        images = [{"id": n, "file_name": "a.tif", "height": SIDE, "width": SIDE} for n in range(3)]
        images = [{**image, **dict.fromkeys(keys, image["id"])} for image in images]
        square = [[5, 5, 25, 5, 25, 25, 5, 25]]
        drawn = [{"image_id": 1, "category_id": 1, "segmentation": square}]
        path = tmp_path / "coco.json"
        whole = {"images": images, "annotations": drawn, "categories": [{"id": 1, "name": "i"}]}
        path.write_text(json.dumps(whole), encoding="utf-8")
        return path

    report, masks = run(stack, document(frame_index=0), tmp_path)
    assert not masks
    assert "give --source.page 1" in report.failures[0][2]
    _, masks = run(stack, document(frame_index=0), tmp_path, source={"page": 1})
    assert masks["a.tif"].sum() == 2 * 400
    with pytest.raises(InputError, match=r"3 images are named a\.tif"):
        run(stack, document(), tmp_path)


def test_the_plane_of_a_geojson_is_a_page(stack: Path, tmp_path: Path) -> None:
    ring = [[5, 5], [25, 5], [25, 25], [5, 25], [5, 5]]

    def write(z: int) -> Path:
        geometry = {"type": "Polygon", "coordinates": [ring], "plane": {"c": -1, "z": z, "t": 0}}
        feature = {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": "i"}}}
        (tmp_path / "a.geojson").write_text(json.dumps([feature]), encoding="utf-8")
        return tmp_path / "a.geojson"

    assert run(stack, write(0), tmp_path)[1]["a.tif"].sum() == 2 * 400
    report, masks = run(stack, write(2), tmp_path)
    assert not masks
    assert "give --source.page 2" in report.failures[0][2]
    assert run(stack, write(2), tmp_path, source={"page": 2})[1]["a.tif"].sum() == 2 * 400


def unmapped(kind: str, folder: Path) -> tuple[Path, str]:
    """An annotation of two regions in one format, none of which has a class that is known; and the format."""
    corners = [[5, 5], [25, 5], [25, 25], [5, 25]]
    ring = [*corners, corners[0]]
    flat = [value for corner in corners for value in corner]
    points = ";".join(f"{x},{y}" for x, y in corners)
    drawn = f'<polygon label="7" points="{points}"/>'
    texts = {
        "labelme": json.dumps({"shapes": [{"label": 7, "points": corners}] * 2}),
        "coco": json.dumps(
            {
                "images": [{"id": 1, "file_name": "a.png", "height": SIDE, "width": SIDE}],
                "annotations": [{"image_id": 1, "category_id": 7, "segmentation": [flat]}] * 2,
                "categories": [],
            }
        ),
        "cvat": f'<annotations><image name="a.png" width="{SIDE}" height="{SIDE}">{drawn}{drawn}</image></annotations>',
        "geojson": json.dumps([{"type": "Polygon", "coordinates": [ring]}] * 2),
    }
    suffix = {"cvat": ".xml", "geojson": ".geojson"}.get(kind, ".json")
    if kind == "imagej":
        return write_rois(folder / "a.zip", ("0001-0171", {}), ("0002-0174", {})), kind
    if kind == "via":
        return write_via(folder / "a.json", **{"a.png": [(LEFT, {}), (RIGHT, {})]}), kind
    (folder / f"a{suffix}").write_text(texts[kind], encoding="utf-8")
    return folder / f"a{suffix}", kind


@pytest.mark.parametrize("kind", ["via", "labelme", "coco", "cvat", "geojson", "imagej"])
@pytest.mark.parametrize("empty", ["skip", "unlabelled"])
def test_regions_without_a_class_are_never_an_empty_success(
    kind: str, empty: str, images: Path, tmp_path: Path, microseg: Callable[..., Any]
) -> None:
    annotation, kind = unmapped(kind, tmp_path)
    options = ("--images", images, "--annotations", annotation, "--classes", '["matrix","t"]', "--empty", empty)
    done = microseg("annotate", *options, "--output", tmp_path / "masks")
    assert done.code == 3
    assert "none of its 2 regions was drawn" in done.out
    assert "all of them to one class with --default_class NAME" in done.out
    assert not list((tmp_path / "masks").glob("*.png"))
    done = microseg("annotate", *options, "--default_class", "t", "--output", tmp_path / "again", "--strict")
    assert done.code == 0, done.out + done.err
    assert (read_mask(tmp_path / "again" / "a.png") == 1).sum() >= 100
    assert "2 regions drawn as default_class" in done.out


def test_an_output_without_a_mask_is_never_a_success(
    images: Path, tmp_path: Path, microseg: Callable[..., Any]
) -> None:
    via = write_via(tmp_path / "via.json", **{"gone.png": [(LEFT, {"name": "i"})], "a.png": []})
    options = ("--images", images, "--annotations", via, "--classes", '["matrix","i"]', "--output", tmp_path / "masks")
    done = microseg("annotate", *options, "--attribute", "name")
    assert done.code == 3
    assert "no mask: 1 images without regions, 1 annotations without image" in done.out


def test_an_annotation_image_without_a_known_colour_is_no_mask(images: Path, tmp_path: Path) -> None:
    (tmp_path / "drawn").mkdir()
    Image.fromarray(np.full((SIDE, SIDE, 3), (1, 2, 3), np.uint8)).save(tmp_path / "drawn" / "a.png")
    report, masks = run(images, tmp_path / "drawn", tmp_path, format="colors")
    assert not masks
    assert "fits a rule; it holds #010203" in report.failures[0][2]


def test_a_default_class_that_is_no_class_is_refused() -> None:
    with pytest.raises(ValueError, match="default_class: no class 'grian'"):
        AnnotateSettings(images="x", annotations="y", output="z", classes=["a"], default_class="grian")
