"""The predictions of a checkpoint, made by the worker of the segment job, with the probabilities that go with them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.evaluation.judged import Judged
from microseg_ray.evaluation.pairs import Pair, Sink, same_shape
from microseg_ray.runs.bands import Division
from microseg_ray.runs.config import load_own_predictor
from microseg_ray.runs.setup import prepare_engine
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.runs.tasks import BandTask, ShardTask
from microseg_ray.runs.worker import ArchiveWorker
from microseg_ray.settings import IGNORE_INDEX, EvaluateSettings, SegmentSettings
from microseg_ray.sources import fingerprint, open_micrograph, open_prepared
from microseg_ray.sources.unchanged import require_unchanged
from microseg_ray.stitching import engine_grid, shard_window
from microseg_ray.stitching.windows import argmax_first

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from microseg_ray.catalog import CatalogRow
    from microseg_ray.files import Place
    from microseg_ray.geometry import Box, Tile
    from microseg_ray.models.predictor import Predictor
    from microseg_ray.models.strips.predictor import StripPredictor
    from microseg_ray.runs.config import WorkerConfig
    from microseg_ray.sources import Micrograph, View
    from microseg_ray.sources.choices import Parts

__all__ = ["CheckpointPredictions"]

_ENGINE = (
    "path",
    "strip",
    "strip_width",
    "tile",
    "tile_area",
    "halo",
    "shard",
    "batch",
    "blend",
    "overlap",
    "tta",
    "precision",
    "runtime",
    "gpu",
    "threads",
    "memory",
    "source",
    "scale_tolerance",
    "on_scale_mismatch",
    "on_intensity_mismatch",
)
"""Settings of the evaluate job that segment has under the same names, with the same defaults."""


class CheckpointPredictions:
    """Predicts whole micrographs in memory, shard by shard, with the plan and the worker of the segment job.

    Args:
        settings: The evaluate job's settings.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        SettingsError: Settings of the engine that do not suit the model.
    """

    def __init__(self, settings: EvaluateSettings) -> None:
        chosen = {
            "archive": settings.images or settings.table or "",
            "checkpoint": settings.checkpoint or "",
            "output": settings.output,
        }
        engine = SegmentSettings(**chosen, **{name: getattr(settings, name) for name in _ENGINE})
        prepared = prepare_engine(engine)
        self._config, self._split = prepared.config, settings.split
        self._scaling = prepared.card.scaling
        self._model = _Watched(self._config)
        self._worker = ArchiveWorker(self._config, self._model)
        # Averaged probabilities come as the segment job stores them, in half precision; the mask is the same.
        kept = replace(self._config, plan=replace(self._config.plan, extra="probabilities"))
        self._scored = ArchiveWorker(kept, self._model)

    def pair(self, row: CatalogRow) -> Pair | None:
        """A true mask, and a function that predicts one for the same micrograph."""
        if row.mask is None:
            return None
        predict, opened = partial(self._predict, row.image, row.mask), partial(self._open, row.image)
        return Pair(row.name, row.mask, predict, opened, partial(self._parts, row.image))

    def judged(self) -> Judged:
        """The model and the settings that decide its pixels, as a run of `segment` has them."""
        places = self._config.checkpoint
        identity = self._config.identity
        return Judged(
            model_digest=identity["model_digest"],
            checkpoint=(str(places),) if not isinstance(places, tuple) else places,
            split=self._split,
            pixels=identity["pixels"],
        )

    def close(self) -> None:
        """Close the files that are held open."""
        self._worker.close()
        self._scored.close()

    def _predict(
        self, path: Place, truth_path: Place, truth: NDArray[np.uint8], sink: Sink | None
    ) -> NDArray[np.uint8]:
        mark = fingerprint(path, "stat")
        view, limits = self._worker.examine(str(path))
        same_shape(truth, view.shape, truth_path)
        mask = np.full(view.shape, IGNORE_INDEX, np.uint8)
        spec = MaskSpec(view.shape, (), self._config.plan.shard)
        try:
            if self._config.plan.strip:
                self._stream(str(path), view, limits, mask, sink)
            for shard in np.ndindex(*spec.shards) if not self._config.plan.strip else ():
                task = ShardTask(str(path), str(path), "", view, limits, (shard[0], shard[1]))
                box = spec.box(task.shard)
                part = box.intersection(view.specimen)
                found, scores = self._shard(task, part, wanted=sink is not None and part.area > 0)
                mask[box.slices] = found
                if sink is not None and scores is not None:
                    sink(part, scores, mask[part.slices])
        finally:
            self._worker.forget(str(path))
            self._scored.forget(str(path))
        require_unchanged(path, mark)
        return mask

    def _stream(
        self, path: str, view: View, limits: tuple[float, float], mask: NDArray[np.uint8], sink: Sink | None
    ) -> None:
        """All of a micrograph, in strips."""
        spec = MaskSpec(view.shape, self._config.classes, self._config.plan.shard)
        every = [(row, column) for row in range(spec.shards[0]) for column in range(spec.shards[1])]
        for shards in Division(self._config.plan, 1).bands(every, view.shape, 1):
            task = BandTask(path, path, "", view, limits, shards)
            for shard, result in self._worker.stream(task, raw_scores=sink is not None):
                box = spec.box(shard)
                part = box.intersection(view.specimen)
                mask[box.slices] = result.mask
                if sink is not None and result.extra is not None and part.area:
                    sink(part, result.extra[:, : part.height], mask[part.slices])

    def _parts(self, path: Place) -> Parts:
        with open_micrograph(path, self._config.source) as micrograph:
            return micrograph.info.parts

    def _open(self, path: Place) -> Micrograph:
        return open_prepared(path, self._scaling, self._config.source, self._config.scale)

    def _shard(
        self, task: ShardTask, part: Box, *, wanted: bool
    ) -> tuple[NDArray[np.uint8], NDArray[np.floating[Any]] | None]:
        """The mask of a shard, and where wanted the probabilities (class, y, x) of the specimen in it."""
        if not wanted:
            return self._worker.compute(task).mask, None
        if self._config.plan.needs_scores:
            result = self._scored.compute(task)
            return result.mask, None if result.extra is None else result.extra[:, : part.height]
        self._model.watch(part, self._tiles(task.view, part))
        try:
            return self._worker.compute(task).mask, self._model.seen
        finally:
            self._model.unwatch()

    def _tiles(self, view: View, part: Box) -> list[Tile]:
        plan = self._config.plan
        return shard_window(engine_grid(view.specimen.shape, plan), part, plan)[1]


class _Watched:
    """A predictor that keeps the probabilities inside the cores while it gives masks: one pass for both."""

    def __init__(self, config: WorkerConfig) -> None:
        self.classes = len(config.classes)
        self.seen: NDArray[np.float32] | None = None
        self._config = config
        self._inner: Predictor | None = None
        self._box: Box | None = None
        self._tiles: Iterator[Tile] = iter(())

    def watch(self, box: Box, tiles: list[Tile]) -> None:
        """Keep the probabilities of the next box, whose tiles will come in this order."""
        self._box, self._tiles = box, iter(tiles)
        self.seen = np.empty((self.classes, *box.shape), np.float32)

    def unwatch(self) -> None:
        """Keep no probabilities from now on."""
        self._box, self.seen = None, None

    def masks(self, batch: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.uint8]:
        """As `Predictor.masks`: the largest logit, the first on a tie, before any rounding by a softmax."""
        if self.seen is None or self._box is None:
            return self._loaded().masks(batch, limits)
        import torch

        logits = self._loaded().logits(batch, limits)
        masks = np.stack([argmax_first(image) for image in logits])
        scores = torch.from_numpy(logits).softmax(dim=1).numpy()
        for slot, tile in zip(range(len(batch)), self._tiles, strict=False):
            inside = tile.core.relative_to(self._box).slices
            self.seen[(..., *inside)] = scores[(slot, ..., *tile.core_in_tile.slices)]
        return masks

    def scores(self, batch: NDArray[Any], limits: tuple[float, float]) -> NDArray[np.float32]:
        """As `Predictor.scores`."""
        return self._loaded().scores(batch, limits)

    def strips(self, rows: int) -> StripPredictor:
        """As `Predictor.strips`."""
        return self._loaded().strips(rows)

    def _loaded(self) -> Predictor:
        if self._inner is None:
            self._inner = load_own_predictor(self._config)
        return self._inner
