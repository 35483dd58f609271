"""Opens coco.json and cvat.xml with Datumaro, CVAT's library of formats: `python benchmarks/read_back_datumaro.py EXPORT IMAGES`.

EXPORT was written with `--format png,coco,cvat`: the drawn masks of all objects are compared with the PNG, pixel by pixel. It
needs none of this project's modules, and an environment of its own (`pip install datumaro`).
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import datumaro
import numpy as np
from PIL import Image

LAYOUTS = {
    "coco_instances": ("coco.json", "annotations/instances_default.json", "images/default"),
    "cvat": ("cvat.xml", "cvat.xml", "images"),
}


def main(export: Path, images: Path) -> None:
    """Print a row for each format and image."""
    print("| file | image | masks | classes | pixels | every pixel as in the PNG |\n|---|---|---|---|---|---|")
    for kind, (file, target, beside) in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(export / file, folder / target)
            # Datumaro takes no file without the images beside it.
            shutil.copytree(images, folder / beside)
            for item in sorted(datumaro.Dataset.import_from(str(folder), kind), key=lambda each: each.id):
                _row(file, item, export)


def _row(file: str, item: datumaro.DatasetItem, export: Path) -> None:
    (png,) = (export / "png").glob(f"{item.id}.*.png")
    expected = np.asarray(Image.open(png))
    masks = [each for each in item.annotations if each.type == datumaro.AnnotationType.mask]
    found = np.full(expected.shape, 255, np.uint8)
    for each in masks:
        found[np.asarray(each.image).astype(bool)] = each.label
    labels = len({each.label for each in masks})
    same = "yes" if np.array_equal(found, expected) else "NO"
    print(f"| {file} | {item.id} | {len(masks)} | {labels} | {found.size} | {same} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
