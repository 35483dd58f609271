"""CVAT for images 1.1 (XML): polygon, box, ellipse, polyline, mask; and the label map of its segmentation masks.

(0, 0) is the outer corner of the first pixel. Regions are drawn in the order of `z_order`, then of the file.
"""

from __future__ import annotations

from functools import partial
from math import cos, radians, sin
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from microseg_ray.annotations.regions import (
    BadRegionError,
    Drawing,
    IgnoredShapeError,
    collect,
    line,
    number,
    polygon,
    read_text,
    row_major_runs,
)
from microseg_ray.annotations.shapes import Ellipse, Rectangle
from microseg_ray.errors import InputError

if TYPE_CHECKING:
    from microseg_ray.annotations.regions import ReadOptions
    from microseg_ray.annotations.shapes import Shape
    from microseg_ray.files import Place

__all__ = ["read_cvat", "read_label_map"]

_SHAPES = ("polygon", "box", "ellipse", "polyline", "mask", "points", "cuboid", "skeleton", "tag")
_EXPORT = "export it as `CVAT for images 1.1`"


def read_cvat(path: Place, options: ReadOptions) -> list[Drawing]:
    """Read an annotations.xml.

    Args:
        path: The XML.
        options: `attribute` None is the label; else the name of an `<attribute>` of a shape.

    Raises:
        InputError: No XML, not CVAT for images, or a document type declaration, which no export has.

    Example:
        >>> import pathlib, tempfile
        >>> from microseg_ray.annotations.regions import ReadOptions
        >>> box = '<box label="pore" xtl="1" ytl="2" xbr="4" ybr="6"/>'
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "annotations.xml"
        ...     _ = path.write_text(f'<annotations><image name="a.png" width="9" height="9">{box}</image></annotations>')
        ...     read_cvat(path, ReadOptions())[0].regions[0].shape.bounds().area
        12
    """
    text = read_text(path)
    try:
        root = fromstring(text, forbid_dtd=True)
    except DefusedXmlException as error:
        reason = "the XML declares a document type or entities, which no export of CVAT does"
        raise InputError(path, reason, _EXPORT) from error
    except (ET.ParseError, ValueError) as error:
        raise InputError(path, f"not valid XML ({error})", _EXPORT) from error
    if root.tag != "annotations":
        raise InputError(path, f"at the top: <{root.tag}>, not <annotations>", _EXPORT)
    if root.find("track") is not None:
        raise InputError(path, "this is CVAT for video, with tracks", _EXPORT)
    drawings: list[Drawing] = []
    names: set[str] = set()
    for place, image in enumerate(root.iter("image"), start=1):
        name, size = image.get("name"), _size(path, image, place)
        if not name:
            raise InputError(path, f"at image {place}: it has no name", _EXPORT)
        if name in names:
            reason = f"at image {place}: {name} is there twice; several frames of one file cannot be told apart"
            raise InputError(path, reason, "export each page as a file of its own")
        names.add(name)
        drawing = Drawing(name, f"{path.name}: {name}", size)
        shapes = [shape for shape in image if shape.tag in _SHAPES]
        for number_, shape in sorted(enumerate(shapes, start=1), key=lambda item: _z_order(item[1])):
            value = _value(shape, options.attribute)
            where = f"{drawing.where}: {shape.tag} {number_}"
            collect(drawing, where, value, partial(_shape, shape, options))
        drawings.append(drawing)
    return drawings


def read_label_map(path: Place) -> dict[str, str]:
    r"""The labelmap.txt of CVAT's "segmentation mask 1.1": colour as #rrggbb -> label.

    Raises:
        InputError: A line is not `label:r,g,b:parts:actions`.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = pathlib.Path(folder) / "labelmap.txt"
        ...     _ = path.write_text("# label:color_rgb:parts:actions\nbackground:0,0,0::\npore:255,0,10::\n")
        ...     read_label_map(path)
        {'#000000': 'background', '#ff000a': 'pore'}
    """
    colors: dict[str, str] = {}
    for row, text in enumerate(read_text(path).splitlines(), start=1):
        if not text.strip() or text.startswith("#"):
            continue
        # A label may hold a colon itself, the three fields behind it do not.
        fields = text.rsplit(":", 3)
        parts = fields[1].split(",") if len(fields) == 4 else []
        if len(parts) != 3 or not all(part.strip().isdecimal() and int(part) <= 255 for part in parts):
            raise InputError(
                path, f"line {row}: {text!r} is not label:r,g,b:parts:actions", "export it from CVAT again"
            )
        colors["#" + "".join(f"{int(part):02x}" for part in parts)] = fields[0].strip()
    return colors


def _size(path: Place, image: ET.Element, place: int) -> tuple[int, int] | None:
    height, width = image.get("height"), image.get("width")
    if height is None or width is None:
        return None
    if not height.isdecimal() or not width.isdecimal():
        raise InputError(path, f"at image {place}: its height and width are {height!r} and {width!r}", _EXPORT)
    return int(height), int(width)


def _z_order(shape: ET.Element) -> int:
    text = shape.get("z_order", "0")
    return int(text) if text.lstrip("-").isdecimal() else 0


def _value(shape: ET.Element, attribute: str | None) -> str:
    found = shape.get("label") if attribute is None else None
    for item in shape.iter("attribute") if attribute is not None else ():
        if item.get("name") == attribute:
            found = item.text
    return "(none)" if found is None or not found.strip() else found.strip()


def _shape(shape: ET.Element, options: ReadOptions) -> Shape:
    shift = options.shift(corner=True)

    def get(name: str) -> float:
        return number(shape.get(name), name)

    match shape.tag:
        case "polygon":
            return polygon(_points(shape), shift)
        case "polyline":
            return line(_points(shape), options.line_width, shift)
        case "box":
            return _box(get("ytl"), get("xtl"), get("ybr"), get("xbr"), _turn(shape), shift)
        case "ellipse":
            return Ellipse(get("cy") + shift, get("cx") + shift, abs(get("ry")), abs(get("rx")), _turn(shape))
        case "mask":
            size = (int(get("height")), int(get("width")))
            return row_major_runs((shape.get("rle") or "").split(","), int(get("top")), int(get("left")), size)
        case kind:
            raise IgnoredShapeError("point" if kind == "points" else kind)


def _turn(shape: ET.Element) -> float:
    return radians(number(shape.get("rotation", "0"), "rotation"))


def _points(shape: ET.Element) -> list[list[str]]:
    return [pair.split(",") for pair in (shape.get("points") or "").split(";") if pair]


def _box(y0: float, x0: float, y1: float, x1: float, theta: float, shift: float) -> Shape:
    if y1 < y0 or x1 < x0:
        raise BadRegionError(f"a box of {y1 - y0:g} x {x1 - x0:g} px")
    if theta == 0:
        return Rectangle(y0 + shift, x0 + shift, y1 + shift, x1 + shift)
    # Turned clockwise on the screen around its centre.
    y, x, half_y, half_x = (y0 + y1) / 2, (x0 + x1) / 2, (y1 - y0) / 2, (x1 - x0) / 2
    corners = [(-half_y, -half_x), (-half_y, half_x), (half_y, half_x), (half_y, -half_x)]
    return polygon(
        [(x + v * cos(theta) - u * sin(theta), y + v * sin(theta) + u * cos(theta)) for u, v in corners], shift
    )
