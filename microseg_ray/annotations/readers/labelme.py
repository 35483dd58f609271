"""LabelMe JSON: one file per image, which belongs to the image of the same stem.

A whole number is the centre of a pixel. `imagePath` is not followed: it often points outside the folder.
"""

from __future__ import annotations

import base64
import binascii
import io
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from microseg_ray.annotations.regions import (
    BadRegionError,
    Drawing,
    IgnoredShapeError,
    collect,
    line,
    points,
    polygon,
    read_json,
    validated,
)
from microseg_ray.annotations.shapes import Bitmap, Ellipse, Rectangle

if TYPE_CHECKING:
    from microseg_ray.annotations.regions import ReadOptions
    from microseg_ray.annotations.shapes import Shape
    from microseg_ray.files import Place

__all__ = ["read_labelme"]

_MAX_MASK_PIXELS = 1 << 30


class _Shape(BaseModel):
    model_config = {"extra": "allow"}
    label: str | int
    points: list[Any] = []
    shape_type: str | None = "polygon"
    mask: str | None = None


class _Document(BaseModel):
    shapes: list[_Shape]
    imageHeight: int | None = None  # noqa: N815 - the format's name
    imageWidth: int | None = None  # noqa: N815


def read_labelme(path: Place, options: ReadOptions) -> list[Drawing]:
    """Read a LabelMe file: polygon, rectangle, circle, line, linestrip and mask; points are ignored.

    Args:
        path: The JSON.
        options: `attribute` None is the label; else another key of a shape, such as group_id.

    Raises:
        InputError: Not LabelMe.

    Example:
        >>> import json, pathlib, tempfile
        >>> from microseg_ray.annotations.regions import ReadOptions
        >>> shape = {"label": "pore", "points": [[0, 0], [4, 3]], "shape_type": "rectangle"}
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "a.json"
        ...     _ = path.write_text(json.dumps({"shapes": [shape], "imageHeight": 9, "imageWidth": 9}), encoding="utf-8")
        ...     drawing = read_labelme(path, ReadOptions())[0]
        >>> drawing.image, drawing.regions[0].shape
        ('a', Rectangle(y0=0.0, x0=0.0, y1=3.0, x1=4.0))
    """
    document = validated(path, read_json(path), _Document)
    known = document.imageHeight is not None and document.imageWidth is not None
    size = (document.imageHeight or 0, document.imageWidth or 0) if known else None
    drawing = Drawing(path.stem, path.name, size)
    for place, shape in enumerate(document.shapes, start=1):
        value = shape.label if options.attribute is None else (shape.model_extra or {}).get(options.attribute)
        text = "(none)" if value is None or not str(value).strip() else str(value).strip()
        collect(drawing, f"{path.name}: shape {place}", text, partial(_shape, shape, options))
    return [drawing]


def _shape(shape: _Shape, options: ReadOptions) -> Shape:
    shift = options.shift(corner=False)
    kind = shape.shape_type or "polygon"
    match kind:
        case "polygon" | "oriented_rectangle":
            return polygon(shape.points, shift)
        case "line" | "linestrip":
            return line(shape.points, options.line_width, shift)
        case "point" | "points":
            raise IgnoredShapeError("point")
        case "rectangle" | "circle" | "mask":
            (y0, x0), (y1, x1) = _two(shape, shift)
        case _:
            raise BadRegionError(f"shape_type {kind!r} is not known")
    if kind == "circle":
        radius = float(np.hypot(y1 - y0, x1 - x0))
        return Ellipse(y0, x0, radius, radius)
    if kind == "rectangle":
        return Rectangle(min(y0, y1), min(x0, x1), max(y0, y1), max(x0, x1))
    return _bitmap(shape.mask, round(min(y0, y1) - shift), round(min(x0, x1) - shift))


def _two(shape: _Shape, shift: float) -> tuple[tuple[float, float], tuple[float, float]]:
    corners = points(shape.points, shift)
    if len(corners) == 4 and shape.shape_type == "rectangle":
        # Newer versions write all four corners.
        return tuple(corners.min(axis=0).tolist()), tuple(corners.max(axis=0).tolist())
    if len(corners) != 2:
        raise BadRegionError(f"a {shape.shape_type} of {len(corners)} points, not 2")
    return tuple(corners[0].tolist()), tuple(corners[1].tolist())


def _bitmap(text: str | None, y0: int, x0: int) -> Bitmap:
    from PIL.PngImagePlugin import PngImageFile

    try:
        image = PngImageFile(io.BytesIO(base64.b64decode(text or "", validate=True)))
        if image.size[0] * image.size[1] > _MAX_MASK_PIXELS:
            raise BadRegionError(f"its mask claims {image.size[0]} x {image.size[1]} px")
        mask = np.asarray(image.convert("L")) > 0
    except (binascii.Error, OSError, SyntaxError, ValueError) as error:
        if isinstance(error, BadRegionError):
            raise
        raise BadRegionError(f"its mask is no PNG in base64 ({error})") from error
    return Bitmap(y0, x0, mask)
