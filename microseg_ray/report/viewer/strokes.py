"""A stroke of the brush, a polygon, a fill: which pixels of a micrograph it covers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.settings import IGNORE_INDEX

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from microseg_ray.annotations.shapes import Line, Polygon

__all__ = ["Stroke", "filled"]

_MOST_PIXELS = 1 << 26
_MOST_POINTS = 100_000
_FILL_REACH = 1024

Tool = Literal["brush", "polygon", "fill"]


@dataclass(frozen=True)
class Stroke:
    """What a person drew at once.

    Attributes:
        tool: `brush` is a round pen along its points, `polygon` an area, `fill` the connected region of one point.
        value: The class, or 255 for the eraser.
        points: (y, x) in pixels; (0, 0) is the upper left corner of the first pixel, whose centre is (0.5, 0.5).
        radius: Of the brush, in pixels.
    """

    tool: Tool
    value: int
    points: tuple[tuple[float, float], ...]
    radius: float = 0.5

    @classmethod
    def of_record(cls, record: Mapping[str, Any], classes: int) -> Stroke:
        """The stroke that a page describes.

        Args:
            record: JSON object with tool, value, points, radius.
            classes: How many classes there are.

        Raises:
            InputError: It is none; nothing is drawn.

        Example:
            >>> Stroke.of_record({"tool": "brush", "value": 1, "points": [[2, 3]], "radius": 2}, 2).value
            1
        """
        try:
            points = tuple((float(y), float(x)) for y, x in record["points"])
            stroke = cls(record["tool"], int(record["value"]), points, float(record.get("radius", 0.5)))
        except (KeyError, TypeError, ValueError) as error:
            raise InputError("stroke", f"cannot be read ({error})", "reload the page") from error
        numbers = [value for point in points for value in point] + [stroke.radius]
        least = {"brush": 1, "polygon": 3, "fill": 1}.get(stroke.tool)
        if least is None or not least <= len(points) <= _MOST_POINTS or not all(map(math.isfinite, numbers)):
            raise InputError("stroke", f"{stroke.tool!r} with {len(points)} points cannot be drawn", "draw it again")
        if not 0 <= stroke.value < classes and stroke.value != IGNORE_INDEX:
            raise InputError("stroke", f"there is no class {stroke.value}", f"there are {classes}; add it first")
        return stroke

    def bounds(self, shape: tuple[int, int]) -> Box:
        """The box of its pixels inside the micrograph.

        Raises:
            InputError: It is too large to be drawn at once.
        """
        whole = Box.of_shape(shape)
        box = self._shape.bounds()
        # A box is never negative: what lies outside is cut off first.
        box = box.intersection(whole) if box.area else Box(0, 0, 0, 0)
        if box.area > _MOST_PIXELS:
            raise InputError("stroke", f"covers a box of {box.area} pixels; {_MOST_PIXELS} are the most", "zoom in")
        return box

    def fill(self, box: Box) -> NDArray[np.bool_]:
        """Its pixels in a box: those whose centre it covers.

        Example:
            >>> Stroke("brush", 1, ((0.5, 0.5), (0.5, 2.5))).fill(Box(0, 0, 2, 4)).tolist()
            [[True, True, True, False], [False, False, False, False]]
        """
        return self._shape.fill(box)

    @property
    def _shape(self) -> Line | Polygon:
        # Imported with the first stroke: the readers of all annotation formats come with it.
        from microseg_ray.annotations.shapes import Line, Polygon

        # The shapes of annotations have the centre of the first pixel at (0, 0).
        points = np.array(self.points, np.float64) - 0.5
        if self.tool == "polygon":
            return Polygon((points,))
        if len(points) == 1:
            points = np.repeat(points, 2, axis=0)
        return Line(points, max(1.0, 2 * self.radius))


def filled(
    point: tuple[float, float], shape: tuple[int, int], read: Callable[[Box], NDArray[np.uint8]]
) -> tuple[Box, NDArray[np.bool_]]:
    """The connected region (by edges) of equal values around a point, at most 1024 px away from it.

    Args:
        point: (y, x).
        shape: Of the micrograph.
        read: What is shown: the label where there is one, else the model's class.

    Returns:
        A box and which of its pixels belong to the region.

    Raises:
        InputError: The point lies outside.
    """
    from skimage.measure import label

    y, x = (math.floor(value) for value in point)
    if not (0 <= y < shape[0] and 0 <= x < shape[1]):
        raise InputError("fill", f"(y, x) = ({y}, {x}) lies outside the micrograph", "click inside it")
    box = Box(
        max(0, y - _FILL_REACH), max(0, x - _FILL_REACH), min(shape[0], y + _FILL_REACH), min(shape[1], x + _FILL_REACH)
    )
    values = read(box)
    parts = label(values == values[y - box.y0, x - box.x0], connectivity=1)
    return box, parts == parts[y - box.y0, x - box.x0]
