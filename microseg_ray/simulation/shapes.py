"""Shapes of scenes: polygons, deformed ellipses and curved lines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from microseg_ray.simulation.canvas import Canvas, Doubles, scatter, square, touching

__all__ = ["Ellipses", "Lines", "Polygons", "make_ellipses", "make_lines", "make_polygons"]

_MAX_SIDES = 9


@dataclass(frozen=True, eq=False)
class Polygons:
    """Convex polygons as intersections of up to nine half-planes; (n, ...) arrays, pixels."""

    center: Doubles  # (n, 2): y, x
    reach: Doubles  # (n,): half the side of the bounding square
    normals: Doubles  # (n, sides, 2)
    distance: Doubles  # (n, sides); infinite for missing sides
    gray: Doubles  # (n,)
    stripes: Doubles  # (n, 2): wave vector of the lamellae, radians per pixel
    phase: Doubles  # (n,)

    def draw(self, canvas: Canvas, index: int, lamellae: float) -> None:
        """Draw the polygons as class `index`; lamellae vary the brightness by the share `lamellae`."""
        for each in touching(self.center, self.reach, canvas):
            where, y, x = square(self.center[each], float(self.reach[each]), canvas)
            inside = np.ones((y.shape[0], x.shape[1]), bool)
            for (normal_y, normal_x), distance in zip(self.normals[each], self.distance[each], strict=True):
                inside &= normal_y * y + normal_x * x <= distance
            wave = np.sin(self.stripes[each, 0] * y + self.stripes[each, 1] * x + self.phase[each])
            np.copyto(canvas.level[where], (self.gray[each] * (1 + lamellae * wave)).astype(np.float32), where=inside)
            canvas.mask[where][inside] = index


@dataclass(frozen=True, eq=False)
class Ellipses:
    """Deformed ellipses; (n, ...) arrays, pixels."""

    center: Doubles  # (n, 2): y, x
    reach: Doubles  # (n,)
    axes: Doubles  # (n, 2): half axes
    angle: Doubles  # (n,)
    wobble: Doubles  # (n, 2): amplitude, phase
    gray: Doubles  # (n,)

    def draw(self, canvas: Canvas, index: int, edge: float) -> None:
        """Draw the ellipses as class `index`; the level increases from centre to edge by the share `edge`."""
        for each in touching(self.center, self.reach, canvas):
            where, y, x = square(self.center[each], float(self.reach[each]), canvas)
            cosine, sine = np.cos(self.angle[each]), np.sin(self.angle[each])
            along = (cosine * x + sine * y) / self.axes[each, 0]
            across = (cosine * y - sine * x) / self.axes[each, 1]
            amplitude, phase = self.wobble[each]
            radius = np.hypot(along, across) / (1 + amplitude * np.cos(3 * np.arctan2(across, along) + phase))
            inside = radius <= 1
            level = (self.gray[each] * ((1 - edge) + edge * radius)).astype(np.float32)
            np.copyto(canvas.level[where], level, where=inside)
            canvas.mask[where][inside] = index


@dataclass(frozen=True, eq=False)
class Lines:
    """Curved lines as chains of thick segments; (n, ...) arrays, pixels."""

    points: Doubles  # (n, points, 2): y, x
    width: Doubles  # (n,)
    gray: Doubles  # (n,)

    def draw(self, canvas: Canvas, index: int) -> None:
        """Draw the lines as class `index`."""
        starts, ends = self.points[:, :-1].reshape(-1, 2), self.points[:, 1:].reshape(-1, 2)
        owner = np.repeat(np.arange(len(self.points)), self.points.shape[1] - 1)
        middle, half = (starts + ends) / 2, (ends - starts) / 2
        reach = np.abs(half).max(axis=1) + self.width[owner] / 2 + 1
        for each in touching(middle, reach, canvas):
            where, y, x = square(middle[each], float(reach[each]), canvas)
            length = max(float(half[each] @ half[each]), 1e-9)
            # Position of the nearest point along the segment, from -1 to 1.
            along = np.clip((y * half[each, 0] + x * half[each, 1]) / length, -1, 1)
            away = np.hypot(y - along * half[each, 0], x - along * half[each, 1])
            inside = away <= self.width[owner[each]] / 2
            np.copyto(canvas.level[where], np.float32(self.gray[owner[each]]), where=inside)
            canvas.mask[where][inside] = index


def make_polygons(
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    cell: float,
    share: float,
    radius: tuple[float, float, float, float],
    gray: tuple[float, float, float, float],
) -> Polygons:
    """Scatter polygons.

    Args:
        rng: Random number generator.
        size: (height, width) of the micrograph.
        cell: Side of the cells of which `share` hold one polygon.
        share: Share of the cells.
        radius: Median, log-normal spread, minimum and maximum, in pixels.
        gray: Mean, standard deviation, minimum and maximum level.
    """
    center = scatter(rng, size, cell, share)
    count = len(center)
    median, spread, least, most = radius
    radii = np.clip(rng.lognormal(np.log(median), spread, count), least, most)
    sides = rng.integers(5, _MAX_SIDES + 1, count)
    index = np.arange(_MAX_SIDES)
    # Nearly even angles: no gap reaches 180 degrees, so every polygon is bounded.
    angle = (index + rng.uniform(-0.3, 0.3, (count, _MAX_SIDES))) * (2 * np.pi / sides)[:, None]
    angle += rng.uniform(0, 2 * np.pi, count)[:, None]
    distance = radii[:, None] * rng.uniform(0.65, 1.05, (count, _MAX_SIDES))
    distance[index >= sides[:, None]] = np.inf
    period, direction = rng.uniform(5.0, 9.0, count), rng.uniform(0, np.pi, count)
    return Polygons(
        center=center,
        reach=1.6 * radii,
        normals=np.stack([np.sin(angle), np.cos(angle)], axis=-1),
        distance=distance,
        gray=np.clip(rng.normal(gray[0], gray[1], count), gray[2], gray[3]),
        stripes=np.stack([np.sin(direction), np.cos(direction)], axis=-1) * (2 * np.pi / period)[:, None],
        phase=rng.uniform(0, 2 * np.pi, count),
    )


def make_ellipses(
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    cell: float,
    share: float,
    radius: tuple[float, float, float, float],
    stretch: tuple[float, float],
    wobble: float,
    gray: tuple[float, float],
) -> Ellipses:
    """Scatter ellipses.

    Args:
        rng: Random number generator.
        size: (height, width) of the micrograph.
        cell: Side of the cells of which `share` hold one ellipse.
        share: Share of the cells.
        radius: Median, log-normal spread, minimum and maximum, in pixels.
        stretch: Minimum and maximum square root of the ratio of the axes.
        wobble: Largest relative amplitude of the outline's three waves.
        gray: Minimum and maximum level.
    """
    center = scatter(rng, size, cell, share)
    count = len(center)
    median, spread, least, most = radius
    radii = np.clip(rng.lognormal(np.log(median), spread, count), least, most)
    factor = rng.uniform(*stretch, count)
    axes = np.stack([radii * factor, radii / factor], axis=-1)
    waves = np.stack([rng.uniform(0.0, wobble, count), rng.uniform(0, 2 * np.pi, count)], axis=-1)
    return Ellipses(
        center=center,
        reach=1.2 * axes[:, 0] + 1,
        axes=axes,
        angle=rng.uniform(0, np.pi, count),
        wobble=waves,
        gray=rng.uniform(*gray, count),
    )


def make_lines(
    rng: np.random.Generator,
    size: tuple[int, int],
    *,
    cell: float,
    share: float,
    length: tuple[float, float],
    width: tuple[float, float],
    gray: tuple[float, float],
) -> Lines:
    """Scatter smoothly curved lines of 12 segments.

    Args:
        rng: Random number generator.
        size: (height, width) of the micrograph.
        cell: Side of the cells of which `share` hold the start of one line.
        share: Share of the cells.
        length: Minimum and maximum length, in pixels.
        width: Minimum and maximum width, in pixels.
        gray: Minimum and maximum level.
    """
    segments = 12
    start = scatter(rng, size, cell, share)
    count = len(start)
    turns = np.cumsum(rng.normal(0, 0.06, (count, segments)), axis=1)
    direction = rng.uniform(0, 2 * np.pi, count)[:, None] + np.cumsum(turns, axis=1)
    step = rng.uniform(*length, count)[:, None, None] / segments
    steps = np.stack([np.sin(direction), np.cos(direction)], axis=-1) * step
    points = start[:, None, :] + np.concatenate([np.zeros((count, 1, 2)), np.cumsum(steps, axis=1)], axis=1)
    # Centred on its cell, so that the density is uniform up to the border.
    points += start[:, None, :] - points.mean(axis=1, keepdims=True)
    return Lines(points, rng.uniform(*width, count), rng.uniform(*gray, count))
