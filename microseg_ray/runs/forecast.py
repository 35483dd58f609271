"""What a run will cost, from headers alone: printed by `plan`, and by `segment` before it starts."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from microseg_ray.errors import StoreError
from microseg_ray.files import ObjectPath
from microseg_ray.runs.bands import Division, band_tax
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.runs.worker import OPEN_MICROGRAPHS
from microseg_ray.stitching import engine_grid

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from microseg_ray.accounts import Account
    from microseg_ray.files import Place
    from microseg_ray.quarantine import Failure
    from microseg_ray.runs.plan import RunPlan
    from microseg_ray.runs.tasks import Prepared

__all__ = ["Forecast", "forecast"]

# Uncompressed bytes per pixel of mask and pyramid together: 1 + 1/4 + 1/16 + ...
PYRAMID = 4 / 3
# zstd shrinks masks at least so much on everything measured (benchmarks/memory.py prints the ratio); float16
# probabilities hardly shrink.
MASK_COMPRESSION = 4


@dataclass(frozen=True)
class Forecast:
    """What is to do, and what it takes.

    Attributes:
        micrographs: Files in the archive.
        complete: Micrographs that need nothing.
        shards: Shards of the micrographs that are not complete.
        missing: Shards to compute.
        tiles: Tiles (bands where it is computed in strips) that a model sees for them, about.
        pixels: Pixels of the micrographs that are not complete.
        halo_tax: Pixels computed for each pixel kept.
        worker_bytes: Projected peak memory of one worker.
        disk_bytes: Bytes that the missing shards take on disk, at most.
        free_bytes: Bytes free there; None in an object store, which does not say.
        failures: Inputs that will be quarantined.
        rescaled: Micrographs that are resampled to the model's pixel size.
        info_bars: Micrographs whose info bar is left out.
        notes: What is to be said of pixel sizes, each with the micrographs that it is true of.
        plan: Tile, halo, blend, verdict.
        accounts: Files, pages and pixels: seen = used + set aside + not taken.
    """

    micrographs: int
    complete: int
    shards: int
    missing: int
    tiles: int
    pixels: int
    halo_tax: float
    worker_bytes: int
    disk_bytes: int
    free_bytes: int | None
    failures: tuple[Failure, ...]
    rescaled: int
    info_bars: int
    notes: Mapping[str, tuple[str, ...]]
    plan: RunPlan
    accounts: tuple[Account, ...] = ()

    def refuse_full_disk(self, folder: Place) -> None:
        """Stop before the first shard where the result cannot fit.

        Raises:
            StoreError: Less is free than even compressed results take.
        """
        shrunk = 1 if self.plan.engine.extra == "probabilities" else MASK_COMPRESSION
        if self.free_bytes is not None and self.disk_bytes // shrunk > self.free_bytes:
            raise StoreError(
                f"{folder}: the results take up to {self.disk_bytes / 1e9:.1f} GB and {self.free_bytes / 1e9:.1f} GB are free; "
                "free some space, give another output, or set extra: none"
            )


def forecast(
    prepared: Mapping[str, Prepared],
    complete: int,
    failures: Sequence[Failure],
    plan: RunPlan,
    folder: Place,
    classes: int,
    workers: int = 1,
) -> Forecast:
    """Add up what preparing found.

    Args:
        prepared: Micrographs that are not complete, by name.
        complete: How many are.
        failures: What will be quarantined.
        plan: The run's plan.
        folder: Where results go; need not exist yet.
        classes: Number of classes.
        workers: Processes that share the work.
    """
    extra = {"none": 0, "margin": 1, "entropy": 1, "probabilities": 2 * classes}[plan.engine.extra]
    tiles = seen = kept = disk = 0.0
    # Micrographs of one archive mostly have one size, and a grid of a large one takes a while to divide.
    grids: dict[tuple[int, int], tuple[int, float]] = {}
    for found in prepared.values():
        share = len(found.missing) / found.shards
        shape = found.view.specimen.shape
        if shape not in grids:
            grids[shape] = _units(shape, plan, workers, len(prepared))
        count, tax = grids[shape]
        pixels = found.view.shape[0] * found.view.shape[1] * share
        tiles += count * share
        seen += tax * pixels
        kept += pixels
        disk += pixels * (PYRAMID + extra)
    decoded = OPEN_MICROGRAPHS * max((found.decoded_bytes for found in prepared.values()), default=0)
    return Forecast(
        micrographs=len(prepared) + complete + len(failures),
        complete=complete,
        shards=sum(found.shards for found in prepared.values()),
        missing=sum(len(found.missing) for found in prepared.values()),
        tiles=round(tiles),
        pixels=sum(found.view.shape[0] * found.view.shape[1] for found in prepared.values()),
        halo_tax=seen / kept if kept else 1.0,
        worker_bytes=plan.worker_bytes + decoded,
        disk_bytes=int(disk),
        free_bytes=_free_bytes(folder),
        failures=tuple(failures),
        rescaled=sum(found.view.file_shape is not None for found in prepared.values()),
        info_bars=sum(found.view.info_bar > 0 for found in prepared.values()),
        notes=_notes(prepared),
        plan=plan,
    )


def _free_bytes(folder: Place) -> int | None:
    """Bytes free where a folder is or will be; None where nobody says."""
    if isinstance(folder, ObjectPath):
        return None
    return shutil.disk_usage(next(each for each in (folder, *folder.parents) if each.exists())).free


def _units(shape: tuple[int, int], plan: RunPlan, workers: int, micrographs: int) -> tuple[int, float]:
    """Tiles or bands of a micrograph, and pixels computed for each kept."""
    if not plan.engine.strip:
        grid = engine_grid(shape, plan.engine)
        return len(grid), grid.halo_tax
    division, spec = Division(plan.engine, workers), MaskSpec(shape, (), plan.engine.shard)
    parts = division.parts(micrographs)
    every = [(row, column) for row in range(spec.shards[0]) for column in range(spec.shards[1])]
    return sum(1 for _ in division.bands(every, shape, parts)), band_tax(shape, spec, division, parts)


def _notes(prepared: Mapping[str, Prepared]) -> dict[str, tuple[str, ...]]:
    """Micrographs by what is said of them."""
    said: dict[str, list[str]] = {}
    for name, found in sorted(prepared.items()):
        for note in found.calibration.notes:
            said.setdefault(note, []).append(name)
    return {note: tuple(names) for note, names in said.items()}
