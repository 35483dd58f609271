"""Annotations of every tool to masks: who drew what, where, and which region wins where they overlap.

Drawn regions are read into `Region`s and drawn by `rasterise`; annotation images are turned into class numbers by rules.
The pixel rule of each format and the rule for overlaps are in docs/annotations.md.
"""

from microseg_ray.annotations.detect import READERS, detect_format
from microseg_ray.annotations.job import annotate
from microseg_ray.annotations.painting import rasterise
from microseg_ray.annotations.pixels import by_color, by_threshold
from microseg_ray.annotations.regions import Drawing, ReadOptions, Region
from microseg_ray.annotations.report import AnnotationReport
from microseg_ray.annotations.shapes import Bitmap, Ellipse, Line, Polygon, Rectangle, Shape, Union

__all__ = [
    "READERS",
    "AnnotationReport",
    "Bitmap",
    "Drawing",
    "Ellipse",
    "Line",
    "Polygon",
    "ReadOptions",
    "Rectangle",
    "Region",
    "Shape",
    "Union",
    "annotate",
    "by_color",
    "by_threshold",
    "detect_format",
    "rasterise",
]
