"""A classifier that was trained, made ready to see micrographs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from pydantic import ValidationError

from microseg_ray.classification.views import Seeing, read_views
from microseg_ray.errors import CheckpointError
from microseg_ray.models import CLASSIFIERS
from microseg_ray.models.card import read_card_and_digest
from microseg_ray.models.checkpoint import load_checkpoint
from microseg_ray.models.computing import Computing, decide_runtime
from microseg_ray.models.predictor import Predictor
from microseg_ray.settings import ViewSettings
from microseg_ray.sources import ScaleRule

if TYPE_CHECKING:
    import os
    from typing import Literal

    from numpy.typing import NDArray

    from microseg_ray.classification.views import Views
    from microseg_ray.models.card import ModelCard
    from microseg_ray.models.runtimes import Precision, RuntimeChoice
    from microseg_ray.settings import SourceSettings

__all__ = ["VIEWS_KEY", "Classifier", "load_classifier", "seeing_of"]

VIEWS_KEY = "views"
"""Where `training` of a classifier's card holds its view settings."""


@dataclass(frozen=True)
class Classifier:
    """A model of whole micrographs with everything that prediction needs.

    Attributes:
        predictor: The model; it gives probabilities of views.
        seeing: What it sees of a micrograph.
        card: Its card.
        digest: The `model_digest` of the checkpoint.
        computing: What computes, where it was loaded from a checkpoint.
    """

    predictor: Predictor
    seeing: Seeing
    card: ModelCard
    digest: str = ""
    computing: Computing | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""
        return tuple(item.name for item in self.card.classes)

    def probabilities(self, views: Views) -> NDArray[np.float64]:
        """Probability of each class, float64 (K,): the mean over the views; they add up to 1."""
        found = self.predictor.scores(views.pixels, views.limits).astype(np.float64).mean(axis=0)
        probabilities: NDArray[np.float64] = found / found.sum()
        return probabilities

    def read(
        self,
        path: str | os.PathLike[str],
        source: SourceSettings | None = None,
        tolerance: float = 0.1,
        mismatch: Literal["stop", "rescale", "ignore"] = "rescale",
    ) -> Views:
        """A micrograph as this classifier sees it; errors as `read_views`."""
        return read_views(path, self.seeing, source, ScaleRule(self.card.pixel_size_um, tolerance, mismatch))


def load_classifier(
    folder: str | os.PathLike[str],
    *,
    precision: Precision = "fp32",
    threads: int | None = None,
    device: str = "cpu",
    runtime: RuntimeChoice = "torch",
) -> Classifier:
    """The classifier of a checkpoint.

    Args:
        folder: Checkpoint folder.
        precision: bf16 or fp32.
        threads: Threads that torch uses in this process from now on; None leaves them.
        device: `cpu`, `cuda` ...
        runtime: `torch`, `openvino`, or `auto`.

    Raises:
        CheckpointError: As `load_checkpoint`; the model is one of pixels.
        SettingsError: OpenVINO is asked for and cannot be used.

    Example:
        >>> load_classifier("/nowhere")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.CheckpointError: /nowhere: no such checkpoint folder; give a folder that the train job ...
    """
    model, card = load_checkpoint(folder)
    if card.architecture not in CLASSIFIERS:
        raise CheckpointError(
            f"{folder}: {card.architecture} is a model of pixels, which has no class for a whole micrograph; use `segment` "
            "with it, or give a checkpoint of the classifier job"
        )
    try:
        seeing = seeing_of(card)
    except (ValidationError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{folder}: model.json does not say what the classifier sees (training.{VIEWS_KEY}: {error}); train it again"
        ) from error
    computing = decide_runtime(folder, card, runtime, precision, device, "classify.runtime")
    predictor = Predictor(model, card, precision, device, threads, computing.runtime)
    return Classifier(predictor, seeing, card, read_card_and_digest(folder)[1], computing)


def seeing_of(card: ModelCard) -> Seeing:
    """What the classifier of a card sees of a micrograph."""
    views = ViewSettings.model_validate(card.training[VIEWS_KEY])
    size = int(card.options["height"]), int(card.options["width"])
    return Seeing(views, size, card.in_channels, card.scaling)
