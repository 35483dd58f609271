"""P3: TFRecords of the earlier code become images and masks; `tfrecord` writes them here, our reader reads them."""

from __future__ import annotations

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from microseg_ray.errors import InputError
from microseg_ray.sources import read_mask

tfrecord = pytest.importorskip("tfrecord")
CLASSES = ["clay", "silt", "pore"]


def encoded(pixels, kind):
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, format=kind)
    return held.getvalue()


def pair(seed, shape=(34, 40)):
    generator = np.random.default_rng(seed)
    label = np.kron(generator.integers(0, 3, (shape[0] // 2, shape[1] // 2)), np.ones((2, 2))).astype(np.uint8)
    label[0, :3] = 255
    return np.dstack([label // 2 * 60 + 40] * 3).astype(np.uint8), label


def record(image, label, **changes):
    values = {
        "image/height": (image.shape[0], "int"),
        "image/width": (image.shape[1], "int"),
        "image/encoded": (encoded(image, "JPEG"), "byte"),
        "image/format": (b"jpeg", "byte"),
        "label/encoded": (encoded(label, "PNG"), "byte"),
        "label/format": (b"png", "byte"),
        **changes,
    }
    return {key: value for key, value in values.items() if value is not None}


def write(path, records):
    writer = tfrecord.TFRecordWriter(str(path))
    for values in records:
        writer.write(values)
    writer.close()
    return path


def annotate(microseg, where, output, *more):
    return microseg(
        "annotate",
        "--format",
        "tfrecord",
        "--annotations",
        where,
        "--classes",
        json.dumps(CLASSES),
        "--output",
        output,
        *more,
    )


def failures(output):
    with (output / "failures.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_records_become_images_and_masks_that_tile_reads(tmp_path, microseg):
    pairs = {"voc_train": [pair(0), pair(1)], "voc_val": [pair(2)]}
    for name, own in pairs.items():
        write(tmp_path / f"{name}.record", [record(*each) for each in own])
    ran = annotate(microseg, tmp_path, tmp_path / "out")
    assert ran.code == 0, ran.err + ran.out
    for name, own in pairs.items():
        for number, (image, label) in enumerate(own):
            stem = f"{name}-{number:05d}"
            np.testing.assert_array_equal(read_mask(tmp_path / f"out/masks/{stem}.png"), label)
            assert (tmp_path / f"out/images/{stem}.jpg").read_bytes() == encoded(image, "JPEG")
    report = json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))
    assert report["ignored_pixels"] == 9
    ran = microseg(
        "tile", "--images", tmp_path / "out/images", "--masks", tmp_path / "out/masks", "--classes", json.dumps(CLASSES),
        "--output", tmp_path / "tiles", "--tile", 16, "--overlap", 0, "--workers", 0,
    )  # fmt: skip
    assert ran.code == 0, ran.err + ran.out
    assert annotate(microseg, tmp_path / "voc_val.record", tmp_path / "out").code == 2
    again = annotate(microseg, tmp_path / "voc_val.record", tmp_path / "out", "--overwrite")
    assert again.code == 0, again.err
    assert sorted(path.name for path in (tmp_path / "out/masks").iterdir()) == ["voc_val-00000.png"]
    print("P3: 3 records of 2 files: masks bit-equal, images byte-equal, read by tile")


def test_bad_records_are_named_and_the_others_are_used(tmp_path, microseg):
    image, label = pair(3)
    bad = [
        record(image, label),
        record(image, label, **{"label/encoded": None}),
        record(image, label[:-2]),
        record(image, label, **{"image/height": (b"34", "byte")}),
        record(image, label, **{"image/encoded": (b"no image", "byte")}),
        record(image, label, **{"label/format": (b"tiff", "byte")}),
        record(image, label, **{"image/format": (b"png", "byte"), "image/encoded": (encoded(image, "PNG"), "byte")}),
    ]
    write(tmp_path / "a.tfrecord", bad)
    ran = annotate(microseg, tmp_path / "a.tfrecord", tmp_path / "out")
    assert ran.code == 3
    assert sorted(path.name for path in (tmp_path / "out/masks").iterdir()) == ["a-00000.png", "a-00006.png"]
    assert sorted(path.name for path in (tmp_path / "out/images").iterdir()) == ["a-00000.jpg", "a-00006.png"]
    reasons = [row["reason"] for row in failures(tmp_path / "out")]
    for reason, part in zip(
        reasons,
        ("lacks label/encoded", "(32, 40)", "image/height: a value of another kind", "no image", "tiff"),
        strict=True,
    ):
        assert part in reason


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda content: content[:-9], "cut short"),
        (lambda content: content[:5], "cut short after 5 of 12"),
        (lambda content: bytes([content[0] ^ 1]) + content[1:], "checksum of a length"),
        (lambda content: content[:40] + bytes([content[40] ^ 1]) + content[41:], "checksum of a record"),
        (lambda _: b"\x1f\x8b" + bytes(40), "no TFRecord (gzip must be unpacked first)"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, microseg, damage, message):
    from microseg_ray.annotations.records import read_records

    path = write(tmp_path / "a.record", [record(*pair(4))])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError) as caught:
        list(read_records(path))
    assert message in str(caught.value)
    ran = annotate(microseg, path, tmp_path / "out")
    assert ran.code == 3
    assert not (tmp_path / "out/masks").exists()
