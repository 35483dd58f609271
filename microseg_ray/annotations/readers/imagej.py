"""ImageJ and Fiji regions: .roi and .zip by roifile. (0, 0) is the outer corner of the first pixel.

One file per image, which belongs to the image of the same stem.
"""

from __future__ import annotations

import re
import zipfile
from functools import partial
from typing import IO, TYPE_CHECKING, Any

from microseg_ray.annotations.regions import (
    BadRegionError,
    Drawing,
    IgnoredShapeError,
    collect,
    line,
    number,
    page_of,
    points,
    polygon,
)
from microseg_ray.annotations.shapes import Ellipse, Polygon, Rectangle
from microseg_ray.errors import InputError, ObjectStoreError

if TYPE_CHECKING:
    from microseg_ray.annotations.regions import ReadOptions
    from microseg_ray.annotations.shapes import Shape
    from microseg_ray.files import Place

__all__ = ["read_imagej"]

_MAX_BYTES = 1 << 30
_AREAS = {"POLYGON", "FREEHAND", "TRACED"}
_LINES = {"LINE", "FREELINE", "POLYLINE", "ANGLE"}


def read_imagej(path: Place, options: ReadOptions) -> list[Drawing]:
    """Read the regions of one image.

    Args:
        path: .roi, or .zip of them.
        options: `attribute` is group, name or stroke (the stroke colour as #rrggbb). None: the group where it is not 0, else
            the name; of a name such as "silt-12" the part in front of the number where only that is known.

    Raises:
        InputError: No ROI, damaged, or a ZIP that unpacks to more than 1 GiB.
    """
    try:
        from roifile import ImagejRoi
    except ImportError as error:
        advice = "install it with pip install 'microseg_ray[annotations]'"
        raise InputError("ImageJ annotations", "need roifile", advice) from error
    if options.attribute not in {None, "group", "name", "stroke"}:
        raise InputError(
            path, f"a ROI has no attribute {options.attribute!r}", "give --attribute group, name or stroke"
        )
    drawing = Drawing(path.stem, path.name)
    for name, content in _contents(path):
        where = f"{path.name}: {name}"
        try:
            roi = ImagejRoi.frombytes(content)
        except Exception as error:  # noqa: BLE001 - a decoder raises anything on damaged bytes
            drawing.skipped.append((where, f"no ROI that can be read ({type(error).__name__}: {error})"))
            continue
        value = _value(roi, name, options)
        collect(drawing, where, value, partial(_shape, roi, options), partial(_page, roi))
    return [drawing]


def _contents(path: Place) -> list[tuple[str, bytes]]:
    """Name and bytes of each ROI."""
    try:
        with path.open("rb") as file:
            return _rois(path, file)
    except ObjectStoreError:
        raise
    except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
        raise InputError(path, f"cannot be read ({error})", "copy it again") from error


def _rois(path: Place, file: IO[bytes]) -> list[tuple[str, bytes]]:
    if not zipfile.is_zipfile(file):
        file.seek(0)
        content = file.read()
        if not content.startswith(b"Iout"):
            raise InputError(path, "neither a ROI of ImageJ nor a ZIP of them", "save it from the ROI manager again")
        return [(path.stem, content)]
    with zipfile.ZipFile(file) as archive:
        members = [item for item in archive.infolist() if item.filename.lower().endswith(".roi")]
        if sum(item.file_size for item in members) > _MAX_BYTES:
            raise InputError(path, "the ZIP unpacks to more than 1 GiB", "save it from the ROI manager again")
        return [(item.filename[:-4], archive.read(item)) for item in members]


def _value(roi: Any, name: str, options: ReadOptions) -> str:
    by = options.attribute or ("group" if roi.group else "name")
    if by == "group":
        return str(roi.group)
    if by == "stroke":
        # Alpha, red, green, blue; all zero where none is set.
        return "#" + bytes(roi.stroke_color[1:]).hex() if any(roi.stroke_color) else "(none)"
    text = str(roi.name or name).strip()
    stem = re.sub(r"[\s_.-]*\d+$", "", text)
    return stem if text not in options.known and stem in options.known else text or "(none)"


def _page(roi: Any) -> int | None:
    """The page that a ROI was drawn on; positions count from 1, and 0 is none. A channel alone is no page."""
    return roi.position - 1 if roi.position > 0 else page_of(roi.z_position - 1, roi.t_position - 1)


def _shape(roi: Any, options: ReadOptions) -> Shape:
    shift = options.shift(corner=True)
    kind = roi.roitype.name
    if roi.multi_coordinates is not None:
        return _composite(roi, shift)
    if kind in {"RECT", "OVAL"}:
        y, x, height, width = (
            (roi.yd, roi.xd, roi.heightd, roi.widthd)
            if roi.subpixelrect
            else (roi.top, roi.left, roi.bottom - roi.top, roi.right - roi.left)
        )
        y, x, height, width = number(y, "y"), number(x, "x"), number(height, "height"), number(width, "width")
        if height <= 0 or width <= 0:
            raise BadRegionError(f"a {kind.lower()} of {height:g} x {width:g} px")
        if kind == "RECT":
            return Rectangle(y + shift, x + shift, y + height + shift, x + width + shift)
        return Ellipse(y + height / 2 + shift, x + width / 2 + shift, height / 2, width / 2)
    if kind in _AREAS:
        return polygon(roi.coordinates(), shift)
    if kind in _LINES:
        return line(roi.coordinates(), float(roi.stroke_width) or options.line_width, shift)
    raise IgnoredShapeError("point" if kind == "POINT" else kind.lower())


def _composite(roi: Any, shift: float) -> Polygon:
    """Rings inside rings are holes."""
    try:
        rings = roi.coordinates(multi=True)
    except Exception as error:
        raise BadRegionError(f"a composite that cannot be read ({type(error).__name__}: {error})") from error
    found = tuple(ring for ring in (points(ring, shift) for ring in rings) if len(ring) >= 3)
    if not found:
        raise BadRegionError("a composite without a ring of three points")
    return Polygon(found)
