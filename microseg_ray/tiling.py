"""The tile job: an archive of micrographs and masks to one tile store, on Ray Data.

Two passes over the archive. The survey reads every pair once and finds what is wrong with it, so that the store is laid
out for good tiles only and has no holes. Then each shard of the store is written whole by one task. Rows are
coordinates; a task reads and writes pixels for itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from microseg_ray.catalog import CatalogRow, Failure, build_catalog, write_failures
from microseg_ray.errors import InputError, MicrosegError, SettingsError
from microseg_ray.geometry import Box, TileGrid
from microseg_ray.settings import IGNORE_INDEX, Scaling, TileSettings
from microseg_ray.sources import fingerprint, intensity_limits, open_prepared, read_mask
from microseg_ray.stores import TileSpec, TileStore, count_classes, write_table

__all__ = ["TileSummary", "Tiled", "tile"]

Report = Callable[[str, int, int], None]
Mapper = Callable[[Callable[[dict[str, Any]], dict[str, Any]], Sequence[dict[str, Any]], str], list[dict[str, Any]]]


@dataclass(frozen=True)
class TileSummary:
    """One line of the summary.

    Attributes:
        split: Name of the split.
        micrographs: Micrographs in it.
        tiles: Tiles in it.
        fractions: Share of each class in the labelled pixels.
    """

    split: str
    micrographs: int
    tiles: int
    fractions: tuple[float, ...]


@dataclass(frozen=True)
class Tiled:
    """What the tile job came to."""

    store: TileStore
    summary: list[TileSummary]
    failures: list[Failure]
    left_out: int


def tile(
    settings: TileSettings, report: Report = lambda *_: None, start_ray: Callable[[], None] = lambda: None
) -> Tiled:
    """Make a tile store.

    Args:
        settings: The job's settings; `workers: 0` runs in this process, without Ray.
        report: Told (stage, done, total).
        start_ray: Called before Ray is used, once the settings and the names of the files are found good.

    Returns:
        The store, a summary per split, and what was left out.

    Raises:
        SettingsError: No classes, images or masks are named.
        InputError: Nothing usable is in the archive.
        StoreError: The output holds a store already.
    """
    if not settings.classes:
        raise SettingsError(
            "tile.classes: name the classes in the order of the mask values, as in classes: [matrix, pore]"
        )
    for key in ("images", "masks"):
        if getattr(settings, key) is None:
            raise SettingsError(f"tile.{key}: missing; give --{key} or put `{key}:` under `data:` in the config")
    output = Path(settings.output).absolute()
    if (output / "tiles.parquet").exists() and not settings.overwrite:
        raise SettingsError(f"tile.output: {output} holds a finished tile store; give another folder, or --overwrite")
    rows, failures = build_catalog(settings.data)
    if settings.workers:
        start_ray()
    mapper = _in_process(report) if settings.workers == 0 else _on_ray_data(report, settings.workers)
    surveys = mapper(_survey_row, [_survey_request(row, settings) for row in rows], "survey")
    good = [found for found in surveys if not found["reason"]]
    failures += [Failure(found["name"], found["stage"], found["reason"]) for found in surveys if found["reason"]]
    if not good:
        listed = "; ".join(f"{failure.path}: {failure.reason}" for failure in failures[:3])
        raise InputError(
            settings.images, f"no usable pair of micrograph and mask is left ({listed})", "see the reasons above"
        )
    tiles, left_out = _tile_rows(good, settings)
    if not tiles:
        raise InputError(settings.images, "every tile was left out", f"lower min_labelled ({settings.min_labelled})")
    store = TileStore.create(output, _spec(good, len(tiles), settings), _made_from(good, settings))
    # Written before the store is finished: whoever finds the table finds the reasons too.
    write_failures(output / "failures.csv", failures)
    requests = [_shard_request(store, shard, tiles, good) for shard in range(store.spec.shards)]
    broken = [found["reason"] for found in mapper(_write_row, requests, "write") if found["reason"]]
    if broken:
        raise InputError(
            settings.images, f"an input changed while it was tiled ({broken[0]})", "run the tile job again"
        )
    write_table(output, tiles)
    return Tiled(TileStore.open(output), summarise(tiles, settings), failures, left_out)


def summarise(tiles: Iterable[dict[str, Any]], settings: TileSettings) -> list[TileSummary]:
    """Micrographs, tiles and class fractions of each split, from the rows of tiles.parquet."""
    lines = []
    rows = list(tiles)
    for split in sorted({row["split"] for row in rows}):
        own = [row for row in rows if row["split"] == split]
        counts = np.array([[row[f"count_{index}"] for index in range(len(settings.classes))] for row in own]).sum(
            axis=0
        )
        total = max(1, int(counts.sum()))
        fractions = tuple(float(count) / total for count in counts)
        lines.append(TileSummary(split, len({row["micrograph"] for row in own}), len(own), fractions))
    return lines


def _survey_request(row: CatalogRow, settings: TileSettings) -> dict[str, Any]:
    return {
        "name": row.name,
        "image": str(row.image),
        "mask": str(row.mask),
        "group": row.group,
        "split": row.split,
        "tile": settings.tile,
        "overlap": settings.overlap,
        "classes": len(settings.classes),
        "scaling": settings.scaling.model_dump(),
    }


def _survey_row(request: dict[str, Any]) -> dict[str, Any]:
    """Look at one pair; what is wrong comes back as `reason`."""
    base = {key: request[key] for key in ("name", "image", "mask", "group", "split")}
    try:
        return {**base, "reason": "", "stage": "", **_survey(request)}
    except MicrosegError as error:
        where = getattr(error, "where", "")
        stage = "mask" if where == request["mask"] else "image"
        reason = str(error).removeprefix(f"{request['image']}: ")
        return {**base, "reason": reason, "stage": stage}
    except Exception as error:  # noqa: BLE001 - whatever a library raises on one pair must not cost the others
        return {**base, "reason": f"{type(error).__name__}: {error}", "stage": "read"}


def _survey(request: dict[str, Any]) -> dict[str, Any]:
    mask = read_mask(request["mask"])
    scaling = Scaling(**request["scaling"])
    with open_prepared(request["image"], scaling) as micrograph:
        info = micrograph.info
        if mask.shape != info.shape:
            raise InputError(
                request["mask"],
                f"the mask is {mask.shape[0]} x {mask.shape[1]} px, its micrograph {info.shape[0]} x {info.shape[1]}",
                "export the mask at the micrograph's size, or correct mask_suffix if it belongs to another one",
            )
        strange = sorted(set(np.unique(mask).tolist()) - set(range(request["classes"])) - {IGNORE_INDEX})
        if strange:
            raise InputError(
                request["mask"],
                f"the mask holds the value {strange[0]}, but only classes 0 to {request['classes'] - 1} are named",
                f"name all classes, or set pixels without a class to {IGNORE_INDEX}",
            )
        tiles = []
        for member in _grid(info.shape, request["tile"], request["overlap"]):
            micrograph.read(
                member.visible
            )  # finds damage and NaN now, while the store can still be laid out without it
            counts = count_classes(mask[member.visible.slices], request["classes"])
            tiles.append([member.box.y0, member.box.x0, *map(int, counts)])
        low, high = intensity_limits(micrograph, scaling)
    return {
        "shape": list(info.shape),
        "channels": info.channels,
        "dtype": info.dtype,
        "pixel_size_um": info.pixel_size_um,
        "low": low,
        "high": high,
        "tiles": tiles,
        "fingerprints": [fingerprint(request["image"], "stat"), fingerprint(request["mask"], "stat")],
    }


def _grid(shape: tuple[int, int], side: int, overlap: int) -> TileGrid:
    # An odd overlap is rounded up: neighbours share at least what was asked for.
    return TileGrid(shape, side, -(-overlap // 2) if -(-overlap // 2) * 2 < side else overlap // 2)


def _tile_rows(good: list[dict[str, Any]], settings: TileSettings) -> tuple[list[dict[str, Any]], int]:
    """The rows of tiles.parquet, in order of micrograph, then row-major; and how many tiles were left out."""
    rows: list[dict[str, Any]] = []
    left_out = 0
    for found in sorted(good, key=lambda item: str(item["name"])):
        shape = found["shape"]
        area = min(shape[0], settings.tile) * min(shape[1], settings.tile)
        for y0, x0, *counts in found["tiles"]:
            labelled = sum(counts)
            if labelled == 0 or labelled / area < settings.min_labelled:
                left_out += 1
                continue
            rows.append(
                {
                    "index": len(rows),
                    "micrograph": found["name"],
                    "group": found["group"],
                    "split": found["split"],
                    "y0": y0,
                    "x0": x0,
                    "low": float(found["low"]),
                    "high": float(found["high"]),
                    **{f"count_{index}": count for index, count in enumerate(counts)},
                    "count_ignored": area - labelled,
                }
            )
    return rows, left_out


def _spec(good: list[dict[str, Any]], tiles: int, settings: TileSettings) -> TileSpec:
    sizes = {None if found["pixel_size_um"] is None else tuple(found["pixel_size_um"]) for found in good}
    size = sizes.pop() if len(sizes) == 1 else None
    return TileSpec(
        tiles=tiles,
        side=settings.tile,
        overlap=settings.overlap,
        channels=max(found["channels"] for found in good),
        # The widest type holds all values unchanged; each tile keeps its own intensity limits.
        dtype=str(np.result_type(*{found["dtype"] for found in good})),
        classes=settings.classes,
        scaling=settings.scaling,
        pixel_size_um=size,
    )


def _made_from(good: list[dict[str, Any]], settings: TileSettings) -> dict[str, Any]:
    inputs = {found["name"]: found["fingerprints"] for found in good}
    chosen = settings.resolved()
    for key in ("ray", "workers", "overwrite", "output"):
        chosen.pop(key)
    return {"settings": chosen, "inputs": inputs}


def _shard_request(
    store: TileStore, shard: int, tiles: list[dict[str, Any]], good: list[dict[str, Any]]
) -> dict[str, Any]:
    files = {found["name"]: (found["image"], found["mask"]) for found in good}
    members = [tiles[index] for index in store.spec.shard_range(shard)]
    return {
        "store": str(store.folder),
        "shard": shard,
        "tiles": [[*files[row["micrograph"]], row["y0"], row["x0"]] for row in members],
    }


def _write_row(request: dict[str, Any]) -> dict[str, Any]:
    try:
        _write_shard(request)
    except (MicrosegError, OSError) as error:
        return {"reason": str(error)}
    return {"reason": ""}


def _write_shard(request: dict[str, Any]) -> None:
    """Read the tiles of one shard, micrograph by micrograph, and write them in one go."""
    store = TileStore.open(request["store"], unfinished=True)
    spec, count = store.spec, len(request["tiles"])
    images = np.zeros((count, spec.channels, spec.side, spec.side), spec.dtype)
    masks = np.full((count, spec.side, spec.side), IGNORE_INDEX, np.uint8)
    files = {(image, mask) for image, mask, *_ in request["tiles"]}
    for image, mask_path in sorted(files):
        mask = read_mask(mask_path)
        with open_prepared(image, spec.scaling) as micrograph:
            frame = Box.of_shape(micrograph.info.shape)
            for slot, (owner, _, y0, x0) in enumerate(request["tiles"]):
                if owner != image:
                    continue
                visible = Box(y0, x0, y0 + spec.side, x0 + spec.side).intersection(frame)
                below, right = spec.side - visible.height, spec.side - visible.width
                # A micrograph smaller than a tile is mirrored, and what is mirrored is not learnt from.
                images[slot] = np.pad(micrograph.read(visible), ((0, 0), (0, below), (0, right)), mode="reflect")
                masks[slot, : visible.height, : visible.width] = mask[visible.slices]
    store.write_shard(request["shard"], images, masks)


def _in_process(report: Report) -> Mapper:
    def run(
        step: Callable[[dict[str, Any]], dict[str, Any]], requests: Sequence[dict[str, Any]], stage: str
    ) -> list[dict[str, Any]]:
        results = []
        for done, request in enumerate(requests, 1):
            results.append(step(request))
            report(stage, done, len(requests))
        return results

    return run


def _on_ray_data(report: Report, workers: int) -> Mapper:
    """The same steps as rows of a Ray dataset; JSON keeps ragged lists out of Arrow's type inference."""
    import logging

    import ray.data

    # Execution plans and progress belong to Ray's developers; the job's own bar says what a user wants to know.
    logging.getLogger("ray.data").setLevel(logging.ERROR)

    def run(
        step: Callable[[dict[str, Any]], dict[str, Any]], requests: Sequence[dict[str, Any]], stage: str
    ) -> list[dict[str, Any]]:
        if not requests:
            return []
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        blocks = min(len(requests), 8 * workers)

        def on_row(row: dict[str, Any]) -> dict[str, Any]:
            return {"order": row["order"], "result": json.dumps(step(json.loads(row["request"])))}

        rows = [{"order": order, "request": json.dumps(request)} for order, request in enumerate(requests)]
        dataset = ray.data.from_items(rows, override_num_blocks=blocks).map(
            on_row, compute=ray.data.TaskPoolStrategy(size=min(workers, blocks))
        )
        results: list[dict[str, Any]] = [{} for _ in requests]
        for done, row in enumerate(dataset.iter_rows(), 1):
            results[row["order"]] = json.loads(row["result"])
            report(stage, done, len(requests))
        return results

    return run
