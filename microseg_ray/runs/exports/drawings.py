"""The objects of masks as GeoJSON (QuPath), COCO and CVAT XML, written object by object."""

from __future__ import annotations

import json
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO
from xml.sax.saxutils import quoteattr

import numpy as np

from microseg_ray.errors import InputError
from microseg_ray.figures.pictures import class_palette
from microseg_ray.names import text
from microseg_ray.statistics.objects.polygons import trace
from microseg_ray.statistics.objects.regions import Window, object_windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray

    from microseg_ray.geometry import Box
    from microseg_ray.settings import ClassSpec
    from microseg_ray.statistics.objects.finding import ObjectRule, Objects
    from microseg_ray.statistics.objects.polygons import Rings

__all__ = ["CocoFile", "CvatFile", "Drawn", "write_geojson"]

_MOST_COCO_PIXELS = 1 << 32
"""Run lengths of pycocotools are 32 bits wide."""


@dataclass(frozen=True, eq=False)
class Drawn:
    """One mask and its objects.

    Attributes:
        name: Of the micrograph, as it is shown.
        digest: Of the model.
        classes: In the order of the class index.
        objects: What is drawn.
        read: Gives the (y, x) uint8 pixels of a box of the mask.
        rule: With which the objects were found.
    """

    name: str
    digest: str
    classes: Sequence[ClassSpec]
    objects: Objects
    read: Callable[[Box], NDArray[np.uint8]]
    rule: ObjectRule

    def windows(self) -> Iterator[Window]:
        """The pixels of all objects."""
        return object_windows(self.objects.shape, self.read, self.objects, self.rule)

    def class_of(self, number: int) -> int:
        """The class index of an object by its number."""
        return int(self.objects.sums.class_index[number - 1])


def write_geojson(file: TextIO, drawn: Drawn, object_type: str) -> None:
    """Write a FeatureCollection that QuPath imports: full-resolution pixels, (0, 0) is the outer corner of the first pixel.

    Each object is a feature with its class, the colour of the class, and its number of objects.csv as the measurement `object`.
    An object that is cut is one feature a part, with the measurement `part`. Ids are the same in each export of a run.

    Args:
        file: Open for text.
        drawn: The mask.
        object_type: QuPath's: annotation or detection.
    """
    palette = class_palette(tuple(drawn.classes))
    kinds = [{"name": spec.name, "color": palette[index].tolist()} for index, spec in enumerate(drawn.classes)]
    space = uuid.uuid5(uuid.NAMESPACE_URL, f"microseg_ray:{drawn.digest}:{drawn.name}")
    file.write('{"type": "FeatureCollection", "features": [')
    begin = "\n"
    for window in drawn.windows():
        for number, polygons in trace(window.numbers):
            part = window.parts.get(number)
            kind = kinds[drawn.class_of(number)]
            measurements = {"object": number} | ({} if part is None else {"part": part})
            feature = {
                "type": "Feature",
                "id": str(uuid.uuid5(space, f"{number}/{part or 0}")),
                "geometry": _geometry(polygons, (window.box.y0, window.box.x0)),
                "properties": {
                    "objectType": object_type,
                    "name": f"{kind['name']} {number}" + ("" if part is None else f", part {part}"),
                    "classification": kind,
                    "measurements": measurements,
                },
            }
            file.write(begin + json.dumps(feature, ensure_ascii=False, separators=(",", ":")))
            begin = ",\n"
    file.write("\n]}\n")


def _geometry(polygons: Sequence[Rings], origin: tuple[int, int]) -> dict[str, Any]:
    corner = np.array(origin[::-1])
    # A ring ends with its first point.
    placed = [[[*(ring + corner).tolist(), (ring[0] + corner).tolist()] for ring in rings] for rings in polygons]
    if len(placed) == 1:
        return {"type": "Polygon", "coordinates": placed[0]}
    return {"type": "MultiPolygon", "coordinates": placed}


def _pieces(window: Window) -> Iterator[tuple[int, int, int, NDArray[np.bool_]]]:
    """(number, y0, x0, pixels) of each object of a window, in its own box."""
    from scipy.ndimage import find_objects

    present, inverse = np.unique(window.numbers, return_inverse=True)
    places = inverse.reshape(window.numbers.shape) + (0 if present[0] == 0 else 1)
    found = present[present > 0]
    for number, place, index in zip(found, find_objects(places), range(1, len(found) + 1), strict=True):
        yield int(number), window.box.y0 + place[0].start, window.box.x0 + place[1].start, places[place] == index


@contextmanager
def _all_or_none(file: TextIO) -> Iterator[None]:
    """Take back what the block has written if it raises."""
    before = file.tell()
    try:
        yield
    except BaseException:
        file.seek(before)
        file.truncate()
        raise


class CocoFile:
    """COCO instances of all micrographs of a run in one file; each object is a run-length mask, so that holes are kept.

    Args:
        file: Open for text; what an unfinished micrograph has written is taken back.
        classes: In the order of the class index; `category_id` is the index + 1.
    """

    def __init__(self, file: TextIO, classes: Sequence[ClassSpec]) -> None:
        self._file, self._classes = file, classes
        self._images: list[dict[str, Any]] = []
        self._next = 1
        self._begin = "\n"
        file.write('{"annotations": [')

    def add(self, drawn: Drawn) -> None:
        """Write the objects of one micrograph, all or none.

        Raises:
            InputError: It has more pixels than COCO's run lengths can count.
        """
        height, width = drawn.objects.shape
        if height * width >= _MOST_COCO_PIXELS:
            reason = f"{height} x {width} px are too many for COCO, whose run lengths have 32 bits"
            raise InputError(drawn.name, reason, "take geojson or cvat")
        image = {"id": len(self._images) + 1, "file_name": drawn.name, "height": height, "width": width}
        before = (self._next, self._begin)
        try:
            with _all_or_none(self._file):
                for window in drawn.windows():
                    for number, y0, x0, pixels in _pieces(window):
                        self._write(image["id"], drawn, window, (number, y0, x0), pixels)
        except BaseException:
            self._next, self._begin = before
            raise
        self._images.append(image)

    def _write(
        self, image: Any, drawn: Drawn, window: Window, at: tuple[int, int, int], pixels: NDArray[np.bool_]
    ) -> None:
        number, y0, x0 = at
        part = window.parts.get(number)
        annotation = {
            "id": self._next,
            "image_id": image,
            "category_id": drawn.class_of(number) + 1,
            "segmentation": _coco_runs(pixels, (y0, x0), drawn.objects.shape),
            "area": int(np.count_nonzero(pixels)),
            "bbox": [x0, y0, pixels.shape[1], pixels.shape[0]],
            "iscrowd": 0,
            "attributes": {"object": number} | ({} if part is None else {"part": part}),
        }
        self._file.write(self._begin + json.dumps(annotation, separators=(",", ":")))
        self._next, self._begin = self._next + 1, ",\n"

    def close(self) -> None:
        """Write the images and the classes."""
        categories = [{"id": index + 1, "name": spec.name} for index, spec in enumerate(self._classes)]
        for key, rows in (("images", self._images), ("categories", categories)):
            self._file.write(f'\n],\n"{key}": [\n' + ",\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
        self._file.write("\n]}\n")


def _coco_runs(pixels: NDArray[np.bool_], corner: tuple[int, int], shape: tuple[int, int]) -> dict[str, Any]:
    """Compressed runs down the columns of the whole micrograph, of which only the box of the object is looked at."""
    from pycocotools import mask

    columns = np.pad(pixels.T, ((0, 0), (1, 1)))
    change = columns[:, 1:] != columns[:, :-1]
    column, row = np.nonzero(change)
    places = (corner[1] + column) * shape[0] + corner[0] + row
    # A run that ends at the bottom of a column where the next begins at its top goes on.
    bounds = np.concatenate([[0], places, [shape[0] * shape[1]]])
    counts = np.diff(bounds)
    joined = np.flatnonzero(counts[1:-1] == 0) + 1
    counts = np.diff(np.delete(bounds, np.concatenate([joined, joined + 1]))).tolist()
    # No run behind the last pixel.
    runs = mask.frPyObjects({"counts": counts if counts[-1] else counts[:-1], "size": list(shape)}, *shape)
    return {"size": list(shape), "counts": runs["counts"].decode("ascii")}


class CvatFile:
    """CVAT for images 1.1 of all micrographs of a run in one file; each object is a mask, so that holes are kept.

    Parts of an object that is cut have its number as their `group_id`.

    Args:
        file: Open for text; what an unfinished micrograph has written is taken back.
        classes: In the order of the class index.
    """

    def __init__(self, file: TextIO, classes: Sequence[ClassSpec]) -> None:
        self._file = file
        self._images = 0
        palette = class_palette(tuple(classes))
        file.write(
            '<?xml version="1.0" encoding="utf-8"?>\n<annotations>\n<version>1.1</version>\n<meta><task><labels>\n'
        )
        for index, spec in enumerate(classes):
            name, color = _escaped(spec.name), palette[index].tobytes().hex()
            file.write(f"<label><name>{name}</name><color>#{color}</color><attributes></attributes></label>\n")
        file.write("</labels></task></meta>\n")

    def add(self, drawn: Drawn) -> None:
        """Write the objects of one micrograph, all or none."""
        height, width = drawn.objects.shape
        with _all_or_none(self._file):
            name = quoteattr(drawn.name)
            self._file.write(f'<image id="{self._images}" name={name} width="{width}" height="{height}">\n')
            for window in drawn.windows():
                for number, y0, x0, pixels in _pieces(window):
                    self._write(drawn, (number, y0, x0), pixels, cut=number in window.parts)
            self._file.write("</image>\n")
        self._images += 1

    def _write(self, drawn: Drawn, at: tuple[int, int, int], pixels: NDArray[np.bool_], *, cut: bool) -> None:
        number, y0, x0 = at
        flat = np.concatenate([[False], pixels.ravel(), [not pixels.flat[-1]]])
        counts = np.diff(np.flatnonzero(np.diff(flat)), prepend=0)
        label = quoteattr(drawn.classes[drawn.class_of(number)].name)
        height, width = pixels.shape
        group = f' group_id="{number}"' if cut else ""
        self._file.write(
            f'<mask label={label} source="file" occluded="0" rle="{", ".join(map(str, counts.tolist()))}" '
            f'left="{x0}" top="{y0}" width="{width}" height="{height}" z_order="0"{group}></mask>\n'
        )

    def close(self) -> None:
        """Write the end."""
        self._file.write("</annotations>\n")


def _escaped(name: str) -> str:
    from xml.sax.saxutils import escape

    return escape(text(name))
