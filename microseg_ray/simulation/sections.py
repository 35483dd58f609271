"""Scenes of polished sections and thin foils: grains, mudrock, steel."""

from __future__ import annotations

import numpy as np

from microseg_ray.settings import ClassSpec, ImagingSettings
from microseg_ray.simulation.canvas import Canvas, Scene, named_classes, random_stream
from microseg_ray.simulation.shapes import make_ellipses, make_lines, make_polygons

__all__ = ["grains", "mudrock", "steel"]


def grains(seed: int, size: tuple[int, int]) -> Scene:
    """A matrix, polygonal grains of a second phase (a quarter of the area) and dark rounded pores (a twentieth).

    Args:
        seed: Seed of the micrograph.
        size: (height, width) in pixels.
    """
    polygons = make_polygons(
        random_stream(seed, 0), size, cell=68, share=0.85, radius=(21.0, 0.45, 7.0, 50.0), gray=(1.28, 0.08, 1.1, 1.5)
    )
    pores = make_ellipses(
        random_stream(seed, 1),
        size,
        cell=84,
        share=0.65,
        radius=(12.0, 0.45, 4.0, 32.0),
        stretch=(1.0, 1.35),
        wobble=0.18,
        gray=(0.38, 0.62),
    )

    def draw(canvas: Canvas) -> None:
        polygons.draw(canvas, 1, lamellae=0.13)
        pores.draw(canvas, 2, edge=0.2)

    return Scene(
        classes=named_classes("matrix", "grain", "pore"),
        pixel_size_um=(0.5, 0.5),
        draw=draw,
        texture=np.array([0.05, 0.03, 0.12], np.float32),
        gray=130.0,
        imaging=ImagingSettings(light=(0.5, 1.25), blur=0.8, shot=0.2, read=2.0, streaks=0.0, info_bar=0),
    )


def mudrock(seed: int, size: tuple[int, int]) -> Scene:
    """Shale: silt grains of all sizes in textured clay, with small flat pores mostly in the clay.

    Args:
        seed: Seed of the micrograph.
        size: (height, width) in pixels.
    """
    coarse = make_polygons(
        random_stream(seed, 0), size, cell=150, share=0.6, radius=(45.0, 0.4, 18.0, 110.0), gray=(1.12, 0.1, 0.9, 1.4)
    )
    fine = make_polygons(
        random_stream(seed, 6), size, cell=52, share=0.5, radius=(9.0, 0.4, 4.0, 22.0), gray=(1.15, 0.12, 0.9, 1.5)
    )
    pores = make_ellipses(
        random_stream(seed, 1),
        size,
        cell=46,
        share=0.6,
        radius=(4.5, 0.5, 1.5, 15.0),
        stretch=(1.1, 2.0),
        wobble=0.25,
        gray=(0.2, 0.5),
    )

    def draw(canvas: Canvas) -> None:
        coarse.draw(canvas, 1, lamellae=0.02)
        fine.draw(canvas, 1, lamellae=0.02)
        pores.draw(canvas, 2, edge=0.3)

    colors = (("clay", "#202020"), ("silt", "#800000"), ("pore", "#008000"))
    return Scene(
        classes=tuple(ClassSpec(name=name, color=color) for name, color in colors),
        pixel_size_um=(0.05, 0.05),
        draw=draw,
        texture=np.array([0.16, 0.03, 0.1], np.float32),
        gray=120.0,
        imaging=ImagingSettings(light=(0.8, 1.15), blur=0.9, shot=0.3, read=3.0, streaks=0.0, info_bar=0),
    )


def steel(seed: int, size: tuple[int, int]) -> Scene:
    """A thin foil of irradiated steel in bright-field STEM: dark curved dislocation lines, gray precipitates, bright voids.

    Args:
        seed: Seed of the micrograph.
        size: (height, width) in pixels.
    """
    lines = make_lines(
        random_stream(seed, 0), size, cell=95, share=0.75, length=(60.0, 220.0), width=(2.5, 5.0), gray=(0.5, 0.72)
    )
    precipitates = make_ellipses(
        random_stream(seed, 6),
        size,
        cell=80,
        share=0.5,
        radius=(9.0, 0.35, 4.0, 24.0),
        stretch=(1.0, 1.5),
        wobble=0.15,
        gray=(0.74, 0.84),
    )
    voids = make_ellipses(
        random_stream(seed, 1),
        size,
        cell=90,
        share=0.5,
        radius=(6.0, 0.35, 2.5, 16.0),
        stretch=(1.0, 1.1),
        wobble=0.05,
        gray=(1.25, 1.4),
    )
    rims = make_ellipses(
        random_stream(seed, 1),
        size,
        cell=90,
        share=0.5,
        radius=(6.0, 0.35, 2.5, 16.0),
        stretch=(1.0, 1.1),
        wobble=0.05,
        gray=(0.7, 0.8),
    )
    # Fresnel fringe of a void out of focus: slightly larger ellipses of the class matrix.
    rims = type(rims)(rims.center, rims.reach + 2, rims.axes + 1.5, rims.angle, rims.wobble, rims.gray)

    def draw(canvas: Canvas) -> None:
        lines.draw(canvas, 1)
        precipitates.draw(canvas, 2, edge=0.08)
        rims.draw(canvas, 0, edge=0.0)
        voids.draw(canvas, 3, edge=-0.1)

    return Scene(
        classes=named_classes("matrix", "dislocation", "precipitate", "void"),
        pixel_size_um=(0.0032, 0.0032),
        draw=draw,
        texture=np.array([0.06, 0.04, 0.05, 0.03], np.float32),
        gray=140.0,
        imaging=ImagingSettings(light=(0.7, 1.2), blur=1.0, shot=0.25, read=2.5, streaks=0.0, info_bar=0),
    )
