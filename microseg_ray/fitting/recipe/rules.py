"""The rules of a recipe: from facts of the data to settings of `train`, with a reason for each.

Pure functions of numbers. nnU-Net (Isensee et al., Nature Methods 18, 2021) chooses by rules from the data, too; the rules
and constants here are those that the trainings of docs/results/training.md and decision 0131 support (decision 0133).
What is given stays, and what is chosen after it goes by it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from microseg_ray.settings.model import SCRATCH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from microseg_ray.fitting.recipe.facts import Facts

__all__ = ["GIVEN", "Budget", "Choice", "choose"]

GIVEN = "given"
"""The reason of what was not chosen."""

STEP_PIXELS = 8 * 256 * 256
"""Pixels of a step in the trainings that the rules come from."""
_CROP = (192, 384)
_LEAST_CROP = 8
_LARGEST_STRIDE = 32
# Receptive-field radius in pixels of efficientnet_unet by its stages (tests hold it against the measured one).
RADIUS = {2: 17, 3: 49, 4: 201, 5: 489}
_PASSES = 40
_STEPS = (200, 4000)
_FEWEST_STEPS = 10
_TRAINING_SHARE = 0.85
_STEPS_OF_EPOCH = 25
_EPOCHS = (4, 40)
_RATE = 2e-3
_RATES = (2e-4, 4e-3)
_LONG_FIT = 400
_RARE = 0.02
_MINOR = 0.25
_OFTEN_LACKING = 0.5
_WITHOUT_ENCODER = frozenset({"unet", "resunet", "defectsegnet"})


@dataclass(frozen=True)
class Budget:
    """How long a fit may take.

    Attributes:
        cpu_minutes: CPU time; None: by the data alone.
        seconds_per_pixel: CPU seconds of a training step per pixel of its batch.
    """

    cpu_minutes: float | None = None
    seconds_per_pixel: float = 5e-6


@dataclass(frozen=True)
class Choice:
    """One value of a recipe.

    Attributes:
        key: Dotted name below `train`.
        value: Plain value as in YAML.
        reason: Why, on one line; `GIVEN` where the user said it.
    """

    key: str
    value: Any
    reason: str


def choose(facts: Facts, given: Mapping[str, Any], budget: Budget) -> tuple[Choice, ...]:
    """Choose settings of `train` for data.

    Args:
        facts: Facts of the training tiles.
        given: What the user said, by dotted name. A section that it names as a whole (`augment: false`), a loss, and a
            section whose `name` or `kind` it names are left as they are.
        budget: How long the fit may take.

    Returns:
        A choice for each key, in the order of a config; those of `given` that a rule would choose are among them.

    Example:
        >>> from microseg_ray.fitting.recipe.facts import Facts
        >>> facts = Facts(352, 343, 132, 66, 4, 1, ("clay", "silt", "pore"), (6_500_000, 1_500_000, 1_000_000),
        ...               (300.0, 60.0, 12.0), (0.0, 0.0, 0.0), 0.02, 0.1, False, True)
        >>> found = {choice.key: choice.value for choice in choose(facts, {"batch": 4}, Budget())}
        >>> found["crop"], found["batch"], found["model.stages"]
        (256, 4, 5)
    """
    return _Chooser(facts, given, budget).run()


class _Chooser:
    def __init__(self, facts: Facts, given: Mapping[str, Any], budget: Budget) -> None:
        self.facts = facts
        self.given = given
        self.budget = budget
        self.choices: dict[str, Choice] = {}

    def run(self) -> tuple[Choice, ...]:
        self._model()
        self._crop()
        self._batch_and_length()
        self._optimizer()
        self._loss()
        self._sampling()
        self._augment()
        self._rest()
        return tuple(self.choices.values())

    def _put(self, key: str, value: Any, reason: str) -> None:
        if key in self.given:
            value, reason = self.given[key], GIVEN
        self.choices[key] = Choice(key, value, reason)

    def _value(self, key: str) -> Any:
        return self.choices[key].value

    def _own(self, section: str, head: str) -> bool:
        """Whether a section is the user's as a whole."""
        return section in self.given or f"{section}.{head}" in self.given

    @property
    def _stride(self) -> int:
        return math.gcd(self.facts.side, _LARGEST_STRIDE)

    @property
    def _limit(self) -> int:
        """Longest side of a crop: of the tiles and of the smallest micrograph."""
        fits = min(self.facts.side, self.facts.smallest)
        # `train` takes no crop below 8 px.
        least = -(-_LEAST_CROP // self._stride) * self._stride
        return max(least, fits // self._stride * self._stride)

    def _model(self) -> None:
        facts = self.facts
        if self._own("model", "name"):
            return
        deepest = self._stride.bit_length() - 1
        if facts.weights and facts.channels in (1, 3) and deepest >= min(RADIUS):
            size = facts.object_size or 0.0
            stages = next((n for n, radius in RADIUS.items() if radius >= 4 * size and n >= 4), max(RADIUS))
            self._put("model.name", "efficientnet_unet", "ahead of resunet on shale in the same CPU time")
            self._put("model.encoder", "efficientnet_lite0", "the fastest one with ImageNet weights")
            if stages > deepest:
                why = f"tiles of {facts.side} px are a multiple of {self._stride} px and no more"
                self._put("model.stages", deepest, why)
            else:
                why = f"sees {RADIUS[stages]} px around a pixel, for objects of {size:.0f} px"
                self._put("model.stages", stages, why)
            self._put(
                "model.weights", "imagenet", f"{facts.labelled:,} labelled pixels are few; the package is installed"
            )
            self._put("model.dropout", 0.1, "few micrographs; as in the trainings on shale")
            return
        lacks = "no package with ImageNet weights is installed" if not facts.weights else "no ImageNet weights suit"
        self._put(
            "model.name", "resunet", f"{lacks}: {facts.channels} channels, tiles of a multiple of {self._stride} px"
        )
        self._put("model.depth", max(1, min(4, deepest)), "4 where the side of the tiles allows it")

    @property
    def _pretrained(self) -> bool:
        if self._own("model", "name"):
            name, weights = str(self.given.get("model.name")), self.given.get("model.weights")
            if weights is None:
                return name.startswith("efficientnet_") and self.facts.weights
            return weights != SCRATCH and name not in _WITHOUT_ENCODER
        return "model.weights" in self.choices and self._value("model.weights") is not None

    def _crop(self) -> None:
        size, limit, stride = self.facts.object_size, self._limit, self._stride
        wanted = 256.0 if size is None else min(max(4 * size, _CROP[0]), _CROP[1])
        crop = min(limit, max(stride, round(wanted / stride) * stride))
        why = f"4 times the objects of {size:.0f} px, {_CROP[0]} to {_CROP[1]}" if size else "no objects to go by"
        if crop < wanted - stride / 2:
            why = f"as large as tiles of {self.facts.side} px and the smallest micrograph ({self.facts.smallest} px) allow"
        self._put("crop", crop, why)

    def _batch_and_length(self) -> None:
        area = int(self._value("crop")) ** 2
        batch = self._batch(area, STEP_PIXELS)
        why = f"about {STEP_PIXELS:,} px a step; {self.facts.tiles} tiles"
        affordable = self._affordable(area, int(self.given.get("batch", batch)))
        if affordable is not None and affordable < _STEPS[0]:
            share = min(1.0, max(0.25, affordable / _STEPS[0]))
            batch = self._batch(area, STEP_PIXELS * share)
            why = f"{share:.0%} of the usual step, so that {self.budget.cpu_minutes:g} CPU minutes allow more steps"
        self._put("batch", batch, why)
        steps, why = self._steps(area, int(self._value("batch")))
        epochs = min(max(steps // _STEPS_OF_EPOCH, _EPOCHS[0]), _EPOCHS[1])
        self._put(
            "epochs", epochs, f"about {_STEPS_OF_EPOCH} steps each, {_EPOCHS[0]} to {_EPOCHS[1]}; each is judged once"
        )
        each = max(1, steps // int(self._value("epochs")))
        self._put("steps_per_epoch", each, f"{steps} steps: {why}")

    def _batch(self, area: int, pixels: float) -> int:
        return max(1, min(self.facts.tiles, 32, max(2, int(pixels / area + 0.5))))

    def _affordable(self, area: int, batch: int) -> int | None:
        """Steps that the budget allows; validation and start take the rest of it."""
        if self.budget.cpu_minutes is None:
            return None
        seconds = self.budget.cpu_minutes * 60 * _TRAINING_SHARE
        return int(seconds / (self.budget.seconds_per_pixel * area * batch))

    def _steps(self, area: int, batch: int) -> tuple[int, str]:
        wanted = round(_PASSES * self.facts.labelled / (area * batch))
        steps = min(max(wanted, _STEPS[0]), _STEPS[1])
        why = f"{_PASSES} passes over {self.facts.labelled:,} labelled pixels, {_STEPS[0]} to {_STEPS[1]} steps"
        affordable = self._affordable(area, batch)
        if affordable is not None and affordable < steps:
            steps = max(affordable, _FEWEST_STEPS)
            why = (
                f"what {self.budget.cpu_minutes:g} CPU minutes allow, at {self._seconds(area * batch):.2g} CPU s a step"
            )
            if affordable < _STEPS[0]:
                why += f"; {_STEPS[0]} would be the least that is enough"
        return steps, why

    def _seconds(self, pixels: int) -> float:
        return self.budget.seconds_per_pixel * pixels

    @property
    def _all_steps(self) -> int:
        return int(self._value("epochs")) * int(self._value("steps_per_epoch"))

    def _optimizer(self) -> None:
        if self._own("optimizer", "name"):
            return
        pixels = int(self._value("crop")) ** 2 * int(self._value("batch"))
        rate = min(max(_RATE * math.sqrt(pixels / STEP_PIXELS), _RATES[0]), _RATES[1])
        rate = float(f"{rate:.2g}")
        self._put("optimizer.name", "adamw", "converges in few steps")
        self._put("optimizer.learning_rate", rate, f"{_RATE:g} by the root of a step's pixels, {pixels:,}")
        if self._pretrained:
            long = self._all_steps >= _LONG_FIT
            why = "a long fit can keep what the encoder knows" if long else "a short fit learns more with one rate"
            self._put("optimizer.encoder_rate", 0.5 if long else 1.0, f"{self._all_steps} steps: {why}")
        self._put("optimizer.weight_decay", 0.05, "few micrographs")
        self._put("optimizer.schedule", "cosine", "the best scores come where the rate is nearly 0")
        self._put("optimizer.warmup", 0.1, "new layers beside trained ones")
        end = float(f"{float(self._value('optimizer.learning_rate')) / 200:.1g}")
        self._put("optimizer.end_rate", end, "a 200th of the rate")

    def _loss(self) -> None:
        if "loss" not in self.given and not any(key.startswith("loss.") for key in self.given):
            least = min((share for share in self.facts.shares if share), default=1.0)
            dice = 1.0 if least < _MINOR else 0.5
            self._put("loss.cross_entropy", 1.0, "calibrated probabilities")
            self._put("loss.dice", dice, f"the rarest class has {least:.2%} of the pixels; Dice counts classes alike")
        rare = [share for share in self.facts.shares if 0 < share < _RARE]
        if not rare:
            self._put("class_weights", "none", f"no class is below {_RARE:.0%} of the pixels")
            return
        weights = _weights(self.facts.shares)
        self._put("class_weights", weights, f"root of the median share over the class's, to 4, below {_RARE:.0%} only")

    def _sampling(self) -> None:
        if self._own("sampling", "kind"):
            return
        facts = self.facts
        scarce = [
            name
            for name, share, lacking in zip(facts.classes, facts.shares, facts.lacking, strict=True)
            if share > 0 and (share < _RARE or lacking > _OFTEN_LACKING)
        ]
        if scarce:
            self._put("sampling.kind", "class_area", f"rare, or lacking in most tiles: {', '.join(scarce)}")
        else:
            self._put("sampling.kind", "uniform", "every class is in most tiles")

    def _augment(self) -> None:
        if "augment" in self.given:
            return
        facts, room = self.facts, min(self.facts.side, self.facts.smallest) / int(self._value("crop"))
        symmetries: bool | str = "mirror" if facts.upright else True
        why = (
            "a class lies more at the top, or more at the bottom" if facts.upright else "no class prefers top or bottom"
        )
        self._put("augment.symmetries", symmetries, why)
        angle, why = _angle(room), f"what a crop turns by in {min(facts.side, facts.smallest)} px without magnification"
        if facts.upright:
            angle, why = min(angle, 10.0), "up is not down"
        self._put("augment.rotate", angle, why)
        low = round(min(max(1 / max(room, 1e-9), 0.7), 1.0), 2)
        self._put("augment.scale", [low, 1.4], "magnifications differ; below the least, a crop would leave its tile")
        bright = round(min(max(2 * facts.brightness, 0.05), 0.3), 2)
        self._put("augment.brightness", bright, f"twice the spread between micrographs, {facts.brightness:.3f}")
        contrast = round(min(max(2 * facts.contrast, 0.1), 0.4), 2)
        self._put("augment.contrast", contrast, f"twice the spread between micrographs, {facts.contrast:.3f}")
        self._put("augment.gamma", [0.8, 1.25], "as in the trainings on shale")
        self._put("augment.noise", 0.03, "as in the trainings on shale")

    def _rest(self) -> None:
        steps = self._all_steps
        self._put("clip", 5.0, "a bad batch must not throw the fit off")
        decay = round(1 - 1 / min(max(steps / 5, 10), 1000), 4)
        self._put("ema", decay, f"averages over a fifth of {steps} steps")
        if self.facts.judges and "early_stopping" not in self.given:
            patience = max(3, int(self._value("epochs")) // 3)
            why = f"{self.facts.judges} micrographs of split val judge; the best epoch is kept"
            self._put("early_stopping.patience", patience, why)


def _weights(shares: tuple[float, ...]) -> list[float]:
    """Weight of each class: above 1 for rare ones only."""
    present = sorted(share for share in shares if share)
    middle = present[len(present) // 2]
    return [round(min(max(math.sqrt(middle / share), 1.0), 4.0), 2) if 0 < share < _RARE else 1.0 for share in shares]


def _angle(room: float) -> float:
    """Largest angle in degrees by which a crop of side 1 turns within a square of side `room`: cos + sin = room."""
    if room >= math.sqrt(2):
        return 180.0
    if room <= 1:
        return 0.0
    return float(math.floor(math.degrees(math.asin(room / math.sqrt(2))) - 45))
