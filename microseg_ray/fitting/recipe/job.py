"""The recipe job: facts of a tile store, a choice for each setting, a config on the disk."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import SettingsError
from microseg_ray.files import write_text
from microseg_ray.fitting.recipe.facts import Facts, read_facts
from microseg_ray.fitting.recipe.rules import Budget, Choice, choose
from microseg_ray.fitting.recipe.writing import config_text, flat, nested

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from microseg_ray.settings import TrainSettings
    from microseg_ray.settings.recipe import RecipeSettings

__all__ = ["Recipe", "make_recipe", "seconds_per_pixel"]

_OWN = frozenset({"write", "replace", "cpu_minutes"})
_BATCH = 2
_TIMED = 2


@dataclass(frozen=True)
class Recipe:
    """A recipe.

    Attributes:
        path: The config.
        text: Its content.
        facts: What it was chosen from.
        choices: Value and reason of each setting.
        given: What the user said, by dotted name.
        settings: The settings as `train` reads them.
    """

    path: Path
    text: str
    facts: Facts
    choices: tuple[Choice, ...]
    given: dict[str, Any]
    settings: TrainSettings


def make_recipe(settings: RecipeSettings, rate: Callable[[TrainSettings, Facts], float] | None = None) -> Recipe:
    """Choose the settings of a fit and write them as a config.

    Args:
        settings: The job's settings.
        rate: CPU seconds of a training step per pixel; default: measured, where there is a budget.

    Raises:
        SettingsError: The store has no training tiles or does not suit what was given, or another file is in the way.
        StoreError: The tile store cannot be read.
    """
    from microseg_ray.fitting.setup import check_fit
    from microseg_ray.fitting.workers import Workers
    from microseg_ray.models.published import published_file
    from microseg_ray.tiles.store import TileStore

    store = TileStore.open(settings.tiles)
    if not len(store.rows("train")):
        raise SettingsError(
            f"recipe.tiles: {settings.tiles} has no tiles in split train; its splits are {store.splits}"
        )
    given = flat(settings.model_dump(mode="json", exclude_unset=True, exclude=set(_OWN)))
    facts = read_facts(store, weights=published_file("efficientnet_lite0") is not None)
    choices = choose(facts, given, Budget())
    if settings.cpu_minutes is not None:
        measured = (rate or seconds_per_pixel)(_train_settings(choices, given), facts)
        choices = choose(facts, given, Budget(settings.cpu_minutes, measured))
    train = _train_settings(choices, given)
    check_fit(train, Workers(world=max(1, train.workers)))
    text = config_text(choices, given, _notes(facts))
    path = Path(settings.write if settings.write is not None else f"{settings.output.rstrip('/')}.yaml").absolute()
    _write(path, text, replace=settings.replace)
    return Recipe(path, text, facts, choices, given, train)


def seconds_per_pixel(settings: TrainSettings, facts: Facts) -> float:
    """Measure the CPU time of a training step of this model on this machine, per pixel of its batch.

    Reading and augmentation are not in it; beside the network they take little.

    Args:
        settings: Model, crop and precision.
        facts: Channels and classes.
    """
    import torch

    from microseg_ray.fitting.precision import precision_of, settled
    from microseg_ray.fitting.stepping import autocast
    from microseg_ray.models import build_model

    model = build_model(settings.model.name, facts.channels, len(facts.classes), settings.model.options).train()
    side = settings.crop or facts.side
    settings = settled(settings, gpu=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)
    images = torch.rand(_BATCH, facts.channels, side, side)
    labels = torch.zeros(_BATCH, side, side, dtype=torch.long)
    began = 0.0
    for step in range(_TIMED + 1):
        if step == 1:  # the first one allocates
            began = time.process_time()
        with autocast(precision_of(settings), "cpu"):
            logits = model(images)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits.float(), labels).backward()
        optimizer.step()
    return (time.process_time() - began) / (_TIMED * _BATCH * side**2)


def _train_settings(choices: tuple[Choice, ...], given: Mapping[str, Any]) -> TrainSettings:
    from microseg_ray.settings import TrainSettings, settings_from

    return settings_from(TrainSettings, nested({**given, **{choice.key: choice.value for choice in choices}}))


def _notes(facts: Facts) -> tuple[str, ...]:
    shares = ", ".join(f"{name} {share:.2%}" for name, share in zip(facts.classes, facts.shares, strict=True))
    sizes = ", ".join(
        f"{name} {size:.0f}" for name, size in zip(facts.classes, facts.sizes, strict=True) if size is not None
    )
    judged = (
        f"{facts.judges} in split val" if facts.judges else "none in split val, so training pixels judge the epochs"
    )
    data = f"{facts.tiles} training tiles of {facts.side} px, {facts.micrographs} micrographs"
    return (
        f"microseg recipe: chosen from {data}; {judged}",
        f"{facts.labelled:,} labelled pixels: {shares}",
        f"typical objects, diameter in px: {sizes}",
    )


def _write(path: Path, text: str, *, replace: bool) -> None:
    if path.exists() and not replace:
        try:
            same = path.read_text(encoding="utf-8") == text
        except (OSError, UnicodeDecodeError):
            same = False
        if not same:
            raise SettingsError(f"recipe.write: {path} is there with another content; give --replace or another name")
        return
    write_text(path, text)
