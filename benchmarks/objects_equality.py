"""Every property of every object of a mask beside scipy's and scikit-image's, on the whole mask in memory.

`python -m benchmarks objects --only equality` runs it on the three mudrock mosaics and, with `--sides N`, on a generated mask.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness import cpu_seconds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from microseg_ray.statistics.objects.finding import Objects

__all__ = ["PROPERTIES", "Compared", "compare"]

WHOLE = "scipy.ndimage"
EACH = "scikit-image"
PROPERTIES = {
    "number of objects of each class": WHOLE,
    "area": WHOLE,
    "box": WHOLE,
    "centroid": WHOLE,
    "mean intensity": WHOLE,
    "SD of intensity": WHOLE,
    "nearest neighbour distance": "scipy.spatial",
    "touches the edge": WHOLE,
    "Euler number, holes": EACH,
    "perimeter (Crofton)": EACH,
    "major axis": EACH,
    "minor axis": EACH,
    "orientation": EACH,
    "largest Feret diameter": EACH,
}
EXACT = ("number of objects of each class", "area", "box", "touches the edge", "Euler number, holes")
BOX_LIMIT = 1 << 24
"""Objects of a larger box are left out of scikit-image's properties, which take 100 bytes for each pixel of it."""
FERET_LIMIT = 1 << 14
"""scikit-image takes the distances of all pairs of outline points; larger boxes are left out."""
ROUND_AXES = 1e-6
"""Share by which the axes must differ for the orientation to be compared."""


@dataclass
class Compared:
    """What was found.

    Attributes:
        objects: Number of objects.
        worst: Largest difference of each property: relative to 1 or more, degrees for the orientation.
        counts: How many objects each was compared for.
        ours: CPU seconds of all properties of ours.
        theirs: CPU seconds of theirs.
        feret: Smallest and largest of scikit-image's Feret diameter minus ours, px.
    """

    objects: int
    worst: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PROPERTIES, 0.0))
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PROPERTIES, 0))
    ours: float = 0.0
    theirs: float = 0.0
    feret: tuple[float, float] = (0.0, 0.0)

    def add(self, name: str, own: Any, other: Any) -> None:
        """Note the difference of two arrays or numbers."""
        one, two = np.asarray(own, np.float64), np.asarray(other, np.float64)
        if one.shape != two.shape:
            raise ValueError(f"{name}: {one.shape} here, {two.shape} there")
        if not np.array_equal(np.isnan(one), np.isnan(two)):
            raise ValueError(f"{name}: one of the two is not defined")
        gap, size = np.nan_to_num(np.abs(one - two)), np.nan_to_num(np.abs(two))
        gap = np.minimum(gap, 180 - gap) if name == "orientation" else gap / np.maximum(1.0, size)
        self.worst[name] = max(self.worst[name], float(gap.max(initial=0.0)))
        self.counts[name] += len(one) if one.ndim else 1


def compare(
    mask: NDArray[np.uint8], intensity: NDArray[np.uint8] | None, classes: int, block: int, limit: int | None = None
) -> Compared:
    """Measure all objects of a mask in blocks, and by scipy and scikit-image as a whole.

    Args:
        mask: (y, x) class indices.
        intensity: (y, x) of the micrograph; None: scipy takes 8 bytes a pixel and more for them.
        classes: How many classes there are.
        block: Side of a block in pixels.
        limit: scikit-image's properties of so many objects of each class, spread evenly; None for all.
    """
    from scipy import ndimage

    from microseg_ray.statistics.objects.finding import ObjectRule, find_objects

    began = cpu_seconds()
    found = find_objects(
        mask.shape,
        lambda box: mask[box.slices],
        ObjectRule(8, block=block),
        None,
        None if intensity is None else lambda box: intensity[box.slices],
    )
    done = Compared(len(found))
    done.ours, began = cpu_seconds() - began, cpu_seconds()
    for index in range(classes):
        labels, count = ndimage.label(mask == index, np.ones((3, 3)))
        own = np.flatnonzero(found.sums.class_index == index)
        done.add("number of objects of each class", len(own), count)
        if not count:
            continue
        slices = ndimage.find_objects(labels)
        _whole_mask(done, found, own, labels, intensity, slices)
        chosen = range(count) if limit is None else np.unique(np.linspace(0, count - 1, limit).astype(int)).tolist()
        for place in chosen:
            _one(done, found, int(own[place]), labels[slices[place]] == place + 1)
    done.theirs = cpu_seconds() - began
    return done


def _whole_mask(
    done: Compared,
    found: Objects,
    own: NDArray[np.int64],
    labels: NDArray[np.int32],
    intensity: NDArray[np.uint8] | None,
    slices: list[tuple[slice, slice]],
) -> None:
    """What scipy has for all labels at once."""
    from scipy import ndimage
    from scipy.spatial import KDTree

    count = len(slices)
    numbers = np.arange(1, count + 1)
    sums = found.sums
    area = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    done.add("area", sums.pixels[own], area)
    boxes = np.array([[y.start, x.start, y.stop, x.stop] for y, x in slices])
    done.add("box", sums.box[own], boxes)
    edge = (boxes[:, :2] == 0).any(axis=1) | (boxes[:, 2:] == labels.shape).any(axis=1)
    done.add("touches the edge", found.touches_edge[own], edge)
    centroids = np.stack(_centroids(labels, count, area), axis=1)
    done.add("centroid", sums.centroid[own], centroids)
    if count > 1:
        nearest = KDTree(centroids).query(centroids, k=2)[0][:, 1]
        done.add("nearest neighbour distance", found.px.nearest_neighbour[own], nearest)
    if found.intensities is not None and intensity is not None:
        done.add("mean intensity", found.intensities.mean[own], ndimage.mean(intensity, labels, numbers))
        done.add("SD of intensity", found.intensities.sd[own], ndimage.standard_deviation(intensity, labels, numbers))


def _centroids(labels: NDArray[np.int32], count: int, area: NDArray[np.int64]) -> list[NDArray[np.float64]]:
    """As `scipy.ndimage.center_of_mass`, whose coordinates of a whole mask would take 16 bytes a pixel; sums are exact here."""
    sums = [np.zeros(count + 1), np.zeros(count + 1)]
    columns = np.arange(labels.shape[1], dtype=np.float64)
    for top in range(0, labels.shape[0], 512):
        part = labels[top : top + 512]
        rows = np.broadcast_to(np.arange(top, top + len(part), dtype=np.float64)[:, None], part.shape)
        sums[0] += np.bincount(part.ravel(), rows.ravel(), minlength=count + 1)
        sums[1] += np.bincount(part.ravel(), np.broadcast_to(columns, part.shape).ravel(), minlength=count + 1)
    return [each[1:] / area for each in sums]


def _one(done: Compared, found: Objects, place: int, image: NDArray[np.bool_]) -> None:
    """What scikit-image has for one object, cut out in its box."""
    from skimage.measure import euler_number, perimeter_crofton, regionprops

    if image.size > BOX_LIMIT:
        return
    px = found.px
    (region,) = regionprops(image.astype(np.uint8))
    done.add("Euler number, holes", found.sums.euler[place], euler_number(image, connectivity=2))
    # A frame, because scikit-image takes the border of the image for no boundary.
    done.add("perimeter (Crofton)", px.perimeter[place], perimeter_crofton(np.pad(image, 1), directions=4))
    major, minor = region.axis_major_length, region.axis_minor_length
    done.add("major axis", px.major_axis[place], major)
    done.add("minor axis", px.minor_axis[place], minor)
    if major - minor > ROUND_AXES * major:
        angle = (90 + np.degrees(region.orientation)) % 180
        done.add("orientation", found.shapes.orientation_deg[place], angle)
    if image.size <= FERET_LIMIT:
        gap = float(region.feret_diameter_max - px.feret_max[place])
        done.feret = min(done.feret[0], gap), max(done.feret[1], gap)
        done.counts["largest Feret diameter"] += 1


def cells(done: Compared, name: str) -> str:
    """The largest difference, as a cell."""
    if not done.counts[name]:
        return "-"
    if name == "largest Feret diameter":
        return f"{done.feret[0]:.1e} to {done.feret[1]:.2f} px"
    if name in EXACT and done.worst[name] == 0:
        return "equal"
    return f"{done.worst[name]:.1e}" + (" deg" if name == "orientation" else "")
