"""Draws one simulated micrograph band by band.

A global threshold fails on the presets for the same reasons as on real micrographs: uneven illumination, grains of different
brightness, and noise. Local contrast, edges and texture make the classes learnable.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import SettingsError
from microseg_ray.settings import ImagingSettings
from microseg_ray.simulation import imaging as optics
from microseg_ray.simulation.canvas import Canvas, Mask, Scene, random_stream
from microseg_ray.simulation.ccd import CCD_CLASSES, CCD_PIXEL_SIZE_UM, VERSIONS, ccd_bands
from microseg_ray.simulation.sections import grains, mudrock, steel
from microseg_ray.simulation.tessellations import facets, polygons

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from microseg_ray.settings import ClassSpec

__all__ = ["PRESETS", "Bands", "Simulated", "simulate_bands", "simulate_micrograph"]

_SCENES: dict[str, Callable[[int, tuple[int, int]], Scene]] = {
    "grains": grains,
    "mudrock": mudrock,
    "steel": steel,
    "facets": facets,
    "coarse": partial(polygons, grain="coarse", hard=False),
    "fine": partial(polygons, grain="fine", hard=False),
    "coarse_hard": partial(polygons, grain="coarse", hard=True),
    "fine_hard": partial(polygons, grain="fine", hard=True),
}
PRESETS: tuple[str, ...] = (*_SCENES, *VERSIONS)
"""The presets of `simulate_micrograph`."""

_BAND_ROWS = 512


@dataclass(frozen=True, eq=False)
class Simulated:
    """A simulated micrograph with its ground truth.

    Attributes:
        image: (y, x), uint8; uint16 for CCD images.
        mask: Class index of every pixel, uint8 (y, x), exact; 255 (ignored) only in an info bar.
        classes: Names and colours, by class index.
        pixel_size_um: (y, x) in micrometres.

    Example:
        >>> simulated = simulate_micrograph((20, 30), seed=1)
        >>> simulated.image.shape, [item.name for item in simulated.classes]
        ((20, 30), ['matrix', 'grain', 'pore'])
    """

    image: NDArray[Any]
    mask: Mask
    classes: tuple[ClassSpec, ...]
    pixel_size_um: tuple[float, float]


@dataclass(frozen=True, eq=False)
class Bands:
    """A simulated micrograph that is drawn lazily.

    Attributes:
        shape: (height, width) in pixels, including an info bar.
        dtype: Data type of the image.
        classes: Names and colours.
        pixel_size_um: (y, x) in micrometres.
        rows: Iterator over the bands from the top: image and mask, (rows, width) each.
    """

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    classes: tuple[ClassSpec, ...]
    pixel_size_um: tuple[float, float]
    rows: Iterator[tuple[NDArray[Any], Mask]]


def simulate_micrograph(
    size: tuple[int, int],
    seed: int,
    *,
    preset: str = "grains",
    imaging: ImagingSettings | None = None,
    clusters: tuple[int, int] | None = None,
) -> Simulated:
    """Simulate a micrograph with its exact mask.

    Densities do not depend on the size. The presets:

    * `grains`: a polished section with polygonal grains (about a quarter of the area) and dark pores (a twentieth).
    * `mudrock`: shale, clay with silt grains of all sizes and small flat pores.
    * `steel`: a thin foil in bright-field STEM, dislocation lines, precipitates and voids.
    * `facets`: a fracture surface, background, transgranular and intergranular facets.
    * `coarse`, `fine`, `coarse_hard`, `fine_hard`: polygonal grains of two sizes, for classification.
    * `ccd_v0`, `ccd_v1`, `ccd_v2`: CCD detector images, uint16; `imaging` does not apply.

    Args:
        size: (height, width) in pixels, from 1 x 1 up.
        seed: Zero or more; the same seed, size and settings give the same bytes.
        preset: One of `PRESETS`.
        imaging: Imaging parameters; None, or a field that is None, for the preset's.
        clusters: Minimum and maximum of charge clusters per 256 x 256 pixels of a CCD image; None for the preset's.

    Returns:
        Image and mask (y, x), with classes and pixel size.

    Raises:
        SettingsError: A side below 1, a negative seed, an unknown preset, or a size or imaging that does not apply to it.

    Example:
        >>> simulated = simulate_micrograph((64, 96), seed=7)
        >>> simulated.mask.shape, sorted(set(simulated.mask.ravel().tolist())) <= [0, 1, 2]
        ((64, 96), True)
    """
    bands = simulate_bands(size, seed, preset=preset, imaging=imaging, clusters=clusters)
    image, mask = np.empty(bands.shape, bands.dtype), np.empty(bands.shape, np.uint8)
    y0 = 0
    for part, labels in bands.rows:
        image[y0 : y0 + len(part)], mask[y0 : y0 + len(part)] = part, labels
        y0 += len(part)
    return Simulated(image, mask, bands.classes, bands.pixel_size_um)


def simulate_bands(
    size: tuple[int, int],
    seed: int,
    *,
    preset: str = "grains",
    imaging: ImagingSettings | None = None,
    clusters: tuple[int, int] | None = None,
) -> Bands:
    """`simulate_micrograph` band by band: memory does not grow with the height.

    Args:
        size: (height, width) in pixels.
        seed: Zero or more.
        preset: One of `PRESETS`.
        imaging: Imaging parameters; None, or a field that is None, for the preset's.
        clusters: Minimum and maximum of charge clusters per 256 x 256 pixels of a CCD image; None for the preset's.

    Raises:
        SettingsError: As in `simulate_micrograph`.

    Example:
        >>> bands = simulate_bands((1000, 20), seed=7)
        >>> [image.shape for image, _ in bands.rows]
        [(512, 20), (488, 20)]
    """
    if preset not in PRESETS:
        raise SettingsError(f"preset {preset!r} is unknown; use one of {', '.join(PRESETS)}")
    if seed < 0:
        raise SettingsError(f"seed {seed} is negative; use zero or more")
    if len(size) != 2 or min(size) < 1:
        raise SettingsError(f"size {size}: height and width must be at least one pixel")
    if preset in VERSIONS:
        if imaging is not None and imaging != ImagingSettings():
            raise SettingsError(f"imaging: {preset} has its own detector model; leave imaging away")
        rows = ((image, mask) for _, image, mask in ccd_bands(size, seed, preset, _BAND_ROWS, clusters))
        return Bands(size, np.dtype(np.uint16), CCD_CLASSES, CCD_PIXEL_SIZE_UM, rows)
    if clusters is not None:
        raise SettingsError(f"clusters: {preset} has none; they belong to {', '.join(VERSIONS)}")
    scene = _SCENES[preset](seed, size)
    chosen = scene.imaging
    if imaging is not None:
        given = {name: value for name, value in imaging.model_dump().items() if value is not None}
        chosen = chosen.model_copy(update=given)
    bar = chosen.info_bar or 0
    shape = (size[0] + bar, size[1])
    return Bands(
        shape, np.dtype(np.uint8), scene.classes, scene.pixel_size_um, _exposed(scene, chosen, size, seed, preset)
    )


def _exposed(
    scene: Scene, chosen: ImagingSettings, size: tuple[int, int], seed: int, preset: str
) -> Iterator[tuple[Mask, Mask]]:
    height, width = size
    margin = optics.margin_of(chosen)
    textures, light = optics.texture_tiles(seed), optics.light_rows(seed, size, chosen.light or (1.0, 1.0))
    streaks = optics.streak_rows(seed, width, chosen.streaks) if chosen.streaks else None
    for y0 in range(0, height, _BAND_ROWS):
        y1 = min(y0 + _BAND_ROWS, height)
        shape = (y1 - y0 + 2 * margin, width + 2 * margin)
        canvas = Canvas(y0 - margin, -margin, np.zeros(shape, np.uint8), np.ones(shape, np.float32))
        scene.draw(canvas)
        signal = optics.shade(canvas, textures, scene.texture, chosen.blur or 0.0, margin) * light(y0, y1)
        if streaks is not None:
            signal *= streaks(y0, y1)
        signal *= np.float32(scene.gray)
        image = optics.expose(signal, random_stream(seed, 4, y0), chosen.shot or 0.0, chosen.read or 0.0)
        yield image, canvas.mask[margin:-margin, margin:-margin]
    if chosen.info_bar:
        yield optics.info_bar((chosen.info_bar, width), scene.pixel_size_um, f"{preset} {seed}")
