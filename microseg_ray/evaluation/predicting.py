"""What a checkpoint predicts, by the very steps of the segment job, with the probabilities seen on the way."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.evaluation.pairs import Pair, Sink, same_shape
from microseg_ray.models.card import read_card_and_digest, require_pixel_model
from microseg_ray.runs.plan import engine_plan
from microseg_ray.runs.setup import worker_config
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.runs.worker import ArchiveWorker
from microseg_ray.settings import IGNORE_INDEX, EvaluateSettings, SegmentSettings, settings_from
from microseg_ray.sources import intensity_limits, open_prepared
from microseg_ray.stitching import engine_grid, predict_shard, shard_window
from microseg_ray.stitching.windows import argmax_first

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

    from microseg_ray.catalog import CatalogRow
    from microseg_ray.geometry import Box, Tile, TileGrid
    from microseg_ray.models.predictor import Predictor
    from microseg_ray.sources import Micrograph

__all__ = ["CheckpointPredictions"]

_ENGINE = (
    "tile",
    "halo",
    "precision",
    "threads",
    "memory",
    "tta",
    "blend",
    "gpu",
    "source",
    "scale_tolerance",
    "on_scale_mismatch",
)


class CheckpointPredictions:
    """A checkpoint made ready to predict whole micrographs in memory, shard by shard.

    Args:
        settings: The evaluate job's settings.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        SettingsError: Settings of the engine that do not suit the model.
    """

    def __init__(self, settings: EvaluateSettings) -> None:
        self._card, self.digest = read_card_and_digest(settings.checkpoint or "")
        require_pixel_model(settings.checkpoint or "", self._card)
        chosen = {
            "archive": settings.images or settings.table,
            "checkpoint": settings.checkpoint,
            "output": settings.output,
        }
        engine = settings_from(SegmentSettings, chosen | {name: getattr(settings, name) for name in _ENGINE})
        self._plan = engine_plan(engine, self._card).engine
        self._config = worker_config(engine, self._card, self.digest, engine_plan(engine, self._card))
        # Only asked whether a micrograph suits the model; reading and computing is done here, where scores can be seen.
        self._worker = ArchiveWorker(self._config)
        self._model: _Watched | None = None

    def pair(self, row: CatalogRow) -> Pair | None:
        """A true mask and what the model predicts."""
        if row.mask is None:
            return None
        return Pair(row.name, row.mask, partial(self._predict, row.image, row.mask), partial(self._open, row.image))

    def close(self) -> None:
        """Release what is held open."""
        self._worker.close()

    def _predict(self, path: Path, truth_path: Path, truth: NDArray[np.uint8], sink: Sink | None) -> NDArray[np.uint8]:
        with self._open(path) as micrograph:
            info = micrograph.info
            self._worker.check(info)
            same_shape(truth, info.shape, truth_path)
            limits = intensity_limits(micrograph, self._card.scaling)
            # The specimen is segmented as if the info bar had been cut off; what lies below it is not measured.
            specimen = info.specimen
            mask = np.full(info.shape, IGNORE_INDEX, np.uint8)
            grid = engine_grid(specimen.shape, self._plan)
            for box in _shards(info.shape, self._plan.shard):
                part = box.intersection(specimen)
                if not part.area:
                    continue
                region, tiles = shard_window(grid, part, self._plan)
                pixels = micrograph.read(region)
                if pixels.shape[0] != self._config.channels:
                    pixels = np.broadcast_to(pixels[:1], (self._config.channels, *pixels.shape[1:]))
                mask[part.slices], scores = self._shard(pixels, part, tiles, (grid, limits), wanted=sink is not None)
                if sink is not None and scores is not None:
                    sink(part, scores, mask[part.slices])
        return mask

    def _open(self, path: Path) -> Micrograph:
        return open_prepared(path, self._card.scaling, self._config.source, self._config.scale)

    def _shard(
        self,
        pixels: NDArray[Any],
        box: Box,
        tiles: list[Tile],
        micrograph: tuple[TileGrid, tuple[float, float]],
        *,
        wanted: bool,
    ) -> tuple[NDArray[np.uint8], NDArray[np.floating[Any]] | None]:
        grid, limits = micrograph
        model = self._loaded()
        if self._plan.needs_scores:
            # Averaged probabilities come as the segment job stores them, in half precision.
            plan = replace(self._plan, extra="probabilities") if wanted else self._plan
            result = predict_shard(pixels, model, grid, box, plan, limits)
            return result.mask, result.extra
        model.watch(box, tiles, wanted=wanted)
        mask = predict_shard(pixels, model, grid, box, self._plan, limits).mask
        return mask, model.seen

    def _loaded(self) -> _Watched:
        if self._model is None:
            from microseg_ray.models.predictor import load_predictor

            config = self._config
            self._model = _Watched(
                load_predictor(
                    config.checkpoint, precision=config.precision, threads=config.threads, device=config.device
                )
            )
        return self._model


class _Watched:
    """A predictor whose probabilities inside the cores are kept while it gives masks: one pass for both."""

    def __init__(self, inner: Predictor) -> None:
        self.classes = inner.classes
        self.seen: NDArray[np.float32] | None = None
        self._inner = inner
        self._box: Box | None = None
        self._tiles: Iterator[Tile] = iter(())

    def watch(self, box: Box, tiles: list[Tile], *, wanted: bool) -> None:
        """Keep the probabilities of the next shard, whose tiles will come in this order."""
        self._box, self._tiles = box, iter(tiles)
        self.seen = np.empty((self.classes, *box.shape), np.float32) if wanted else None

    def masks(self, batch: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.uint8]:
        """As `Predictor.masks`: the largest logit, the first on a tie, before any rounding by a softmax."""
        if self.seen is None or self._box is None:
            return self._inner.masks(batch, limits)
        import torch

        logits = self._inner.logits(batch, limits)
        masks = np.stack([argmax_first(image) for image in logits])
        scores = torch.from_numpy(logits).softmax(dim=1).numpy()
        for slot, tile in zip(range(len(batch)), self._tiles, strict=False):
            inside = tile.core.relative_to(self._box).slices
            self.seen[(..., *inside)] = scores[(slot, ..., *tile.core_in_tile.slices)]
        return masks

    def scores(self, batch: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.float32]:
        """As `Predictor.scores`."""
        return self._inner.scores(batch, limits)


def _shards(shape: tuple[int, int], shard: int) -> Iterator[Box]:
    spec = MaskSpec(shape, (), shard)
    for y, x in np.ndindex(*spec.shards):
        yield spec.box((y, x))
