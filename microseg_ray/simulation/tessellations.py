"""Scenes of Voronoi cells: fracture facets, and coarse or fine polygons."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from microseg_ray.settings import ClassSpec, ImagingSettings
from microseg_ray.simulation.canvas import Canvas, Doubles, Floats, Scene, named_classes, random_stream, scatter

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["facets", "polygons"]

# Minimum and maximum side of a cell in pixels, by grain name.
_SIDES = {"coarse": (44.0, 90.0), "fine": (14.0, 30.0)}
_MIDDLE = {"coarse": 62.0, "fine": 22.0}


class _Cells:
    """Voronoi cells of random seeds, with the distance of each pixel from its cell's border."""

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], side: float) -> None:
        self.seeds = scatter(rng, size, side, 1.0)
        self._tree = cKDTree(self.seeds)

    def of(self, canvas: Canvas) -> tuple[NDArray[np.intp], Floats]:
        """Index of the cell of each pixel (y, x), and the approximate distance to its border in pixels."""
        rows, columns = canvas.mask.shape
        y, x = np.meshgrid(np.arange(rows) + canvas.y0, np.arange(columns) + canvas.x0, indexing="ij")
        distance, index = self._tree.query(np.stack([y, x], axis=-1).reshape(-1, 2).astype(np.float64), k=2)
        # The border is the bisector of the two nearest seeds.
        between = np.maximum(np.linalg.norm(self.seeds[index[:, 0]] - self.seeds[index[:, 1]], axis=1), 1e-9)
        away = (distance[:, 1] ** 2 - distance[:, 0] ** 2) / (2 * between)
        return index[:, 0].reshape(rows, columns), away.reshape(rows, columns).astype(np.float32)


def facets(seed: int, size: tuple[int, int]) -> Scene:
    """A brittle fracture surface: smooth intergranular facets, rough transgranular ones with river lines, dark crevices.

    Classes are numbered as in the fractography recipe: 0 background, 1 transgranular, 2 intergranular.

    Args:
        seed: Seed of the micrograph.
        size: (height, width) in pixels.
    """
    rng = random_stream(seed, 0)
    cells = _Cells(rng, size, 105.0)
    count = len(cells.seeds)
    kind = np.searchsorted([0.07, 0.5], rng.random(count)).astype(np.uint8)
    gray = np.where(kind == 0, rng.uniform(0.25, 0.4, count), rng.uniform(0.8, 1.2, count))
    slope = rng.normal(0, 0.0022, (count, 2)) * (kind == 2)[:, None]
    direction, period = rng.uniform(0, np.pi, count), rng.uniform(5.0, 13.0, count)
    wave = np.stack([np.sin(direction), np.cos(direction)], axis=-1) * (2 * np.pi / period)[:, None]
    bend, phase = rng.uniform(0.02, 0.06, count), rng.uniform(0, 2 * np.pi, count)

    def draw(canvas: Canvas) -> None:
        cell, away = cells.of(canvas)
        y = (np.arange(canvas.mask.shape[0]) + canvas.y0)[:, None] - cells.seeds[cell, 0]
        x = (np.arange(canvas.mask.shape[1]) + canvas.x0)[None, :] - cells.seeds[cell, 1]
        # River lines: parallel curved steps, each bright on one side.
        angle = wave[cell, 0] * y + wave[cell, 1] * x + phase[cell] + 2.5 * np.sin(bend[cell] * (y - x))
        rivers = np.where(kind[cell] == 1, 0.28 * (np.mod(angle / (2 * np.pi), 1.0) - 0.5), 0.0)
        canvas.level[:] = gray[cell] * (1 + rivers + slope[cell, 0] * y + slope[cell, 1] * x)
        canvas.mask[:] = kind[cell]
        crevice = away < 2.5
        canvas.level[crevice] = 0.3
        canvas.mask[crevice] = 0

    colors = (("background", "#202020"), ("transgranular", "#00fa00"), ("intergranular", "#0000fa"))
    return Scene(
        classes=tuple(ClassSpec(name=name, color=color) for name, color in colors),
        pixel_size_um=(0.1, 0.1),
        draw=draw,
        texture=np.array([0.1, 0.12, 0.02], np.float32),
        gray=125.0,
        imaging=ImagingSettings(light=(0.75, 1.2), blur=0.9, shot=0.3, read=3.0, streaks=0.0, info_bar=0),
    )


def polygons(seed: int, size: tuple[int, int], *, grain: str, hard: bool) -> Scene:
    """Polygonal grains in shades of gray with dark boundaries, coarse or fine.

    Args:
        seed: Seed of the micrograph.
        size: (height, width) in pixels.
        grain: "coarse" or "fine".
        hard: Any grain size of the class, contrast, blur and noise vary between micrographs, so that no single
            number (mean gradient, variance) separates the classes; if False all micrographs are similar and sharp.
    """
    rng = random_stream(seed, 0)
    side = float(rng.uniform(*_SIDES[grain])) if hard else _MIDDLE[grain]
    contrast = float(rng.uniform(0.08, 0.45)) if hard else 0.3
    blur = float(rng.uniform(0.3, 2.6)) if hard else 0.6
    noise = float(rng.uniform(1.0, 9.0)) if hard else 1.5
    cells = _Cells(rng, size, side)
    gray: Doubles = 1 + contrast * rng.uniform(-1, 1, len(cells.seeds))

    def draw(canvas: Canvas) -> None:
        cell, away = cells.of(canvas)
        canvas.level[:] = gray[cell]
        boundary = away < 1.0
        canvas.level[boundary] = 1 - 1.2 * contrast
        canvas.mask[:] = boundary

    return Scene(
        classes=named_classes("grain", "boundary"),
        pixel_size_um=(1.0, 1.0),
        draw=draw,
        texture=np.array([0.02, 0.02], np.float32),
        gray=140.0,
        imaging=ImagingSettings(light=(0.9, 1.1), blur=blur, shot=0.1, read=noise, streaks=0.0, info_bar=0),
    )
