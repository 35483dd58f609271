"""Overlay images of a run: each micrograph tinted pixel by pixel in the colours of its classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from microseg_ray.errors import MicrosegError
from microseg_ray.evaluation.drawing import OVERLAY_PIXELS, gray_of
from microseg_ray.figures import tinted
from microseg_ray.figures.pictures import class_palette
from microseg_ray.files import whole
from microseg_ray.geometry import Box
from microseg_ray.names import fits
from microseg_ray.outputs import Kind, drop
from microseg_ray.runs.folder import OWNER
from microseg_ray.runs.opening import open_of_run, require_unchanged
from microseg_ray.runs.store.masks import MaskStore

if TYPE_CHECKING:
    from collections.abc import Mapping

    from microseg_ray.files import Place
    from microseg_ray.runs.folder import Run

__all__ = ["Overlays", "draw_overlays"]


@dataclass(frozen=True)
class Overlays:
    """The overlays that were written, and the micrographs that were left out.

    Attributes:
        written: Image files, in the order of the micrographs.
        left_out: Reason by micrograph.
    """

    written: tuple[Place, ...]
    left_out: Mapping[str, str]


def draw_overlays(run: Run, count: int) -> Overlays:
    """Write RUN/overlays/NAME.png: 0.65 of the micrograph and 0.35 of the colours. Older overlays are removed.

    Args:
        run: The run; its micrographs are read from their original paths.
        count: Maximum number of overlays; the micrographs are spread evenly over the run.
    """
    folder, palette = run.folder / "overlays", class_palette(run.classes)
    drop(run.folder, OWNER, ["overlays"])
    stores = {name: MaskStore.open(run.store_path(name)) for name in run.names()}
    names = [name for name, store in stores.items() if store.finished]
    count = min(count, len(names))
    written: list[Place] = []
    left_out: dict[str, str] = {}
    long = [name for name in names if not fits(name, ".png")]
    left_out |= dict.fromkeys(long, "its name leaves no room for a suffix; give the micrograph a shorter one")
    names = [name for name in names if name not in left_out]
    count = min(count, len(names))
    chosen = [names[number * len(names) // count] for number in range(count)]
    run.claim({f"overlays/{name}.png": Kind.FILE for name in chosen})
    for name in chosen:
        shape = stores[name].spec.shape
        if shape[0] * shape[1] > OVERLAY_PIXELS:
            left_out[name] = f"{shape[0]} x {shape[1]} px are too many for one picture; see `microseg report`"
            continue
        try:
            with open_of_run(run, name, stores[name]) as micrograph:
                gray = gray_of(micrograph.read(Box.of_shape(shape)))
            require_unchanged(run, name, stores[name])
        except MicrosegError as error:
            left_out[name] = str(error)
            continue
        path = folder / f"{name}.png"
        with whole(path) as partial:
            Image.fromarray(tinted(gray, np.asarray(stores[name].mask[:]), palette)).save(partial)
        written.append(path)
    return Overlays(tuple(written), left_out)
