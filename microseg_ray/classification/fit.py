"""Fitting a classifier: one process, everything random a function of (seed, epoch, view), the same weights every time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from microseg_ray.accounts import ACCOUNTS_FILE, Account, write_accounts
from microseg_ray.catalog import write_leaks
from microseg_ray.classification.classifier import VIEWS_KEY, Classifier, load_classifier
from microseg_ray.classification.judging import VERDICT_FILES, Verdict, write_verdict
from microseg_ray.classification.labelled import Labelled, LabelledRow, find_labelled
from microseg_ray.classification.rule import GradientRule, fit_rule, mean_gradient
from microseg_ray.classification.views import Seeing, Views, read_views
from microseg_ray.errors import InputError, MicrosegError, SettingsError
from microseg_ray.figures import plot_training
from microseg_ray.files import sole_writer
from microseg_ray.fitting.augmentation import apply_symmetry, augment, draw
from microseg_ray.fitting.sampling import BatchOrder, epoch_order
from microseg_ray.fitting.schedules import Progress, learning_rate
from microseg_ray.fitting.setup import optimizer_of
from microseg_ray.models import build_model
from microseg_ray.models.card import ModelCard
from microseg_ray.models.checkpoint import load_checkpoint, save_checkpoint
from microseg_ray.models.predictor import Predictor
from microseg_ray.models.receptive_field import measure_receptive_field
from microseg_ray.models.scaling import model_input
from microseg_ray.outputs import Kind, check, claim, settle
from microseg_ray.quarantine import Failure, write_failures
from microseg_ray.recognition import is_record
from microseg_ray.settings import ClassSpec, default_color
from microseg_ray.tables import write_csv

if TYPE_CHECKING:
    from torch import Tensor

    from microseg_ray.fitting.augmentation import Draw
    from microseg_ray.settings import ClassifierJobSettings

__all__ = ["FittedClassifier", "fit_classifier"]

Report = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Seen:
    """A micrograph of a split, read."""

    item: LabelledRow
    views: Views


@dataclass
class FittedClassifier:
    """Result of the classifier job.

    Attributes:
        best: Checkpoint of the best epoch: least validation loss, or training loss where there is no split val.
        last: Checkpoint of the last epoch.
        history: Rows of metrics.csv.
        labelled: Classes, splits, leaks and what was set aside.
        metrics: metrics.json of each split that was judged (val, test), by the best epoch.
        stopped: Why the fit ended early, "" where it did not.
        accounts: Files: seen = used + set aside + not taken.
    """

    best: Path
    last: Path
    history: list[dict[str, Any]]
    labelled: Labelled
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    stopped: str = ""
    accounts: tuple[Account, ...] = ()


def fit_classifier(settings: ClassifierJobSettings, report: Report = lambda *_: None) -> FittedClassifier:
    """Train a classifier on `train`, choose its best epoch on `val`, judge it on every other split.

    Args:
        settings: The job's settings.
        report: Called with (epoch, epochs, a line about it).

    Raises:
        SettingsError: As `find_labelled`; the output holds a classifier and `overwrite` is not set.
        InputError: As `find_labelled`; no training micrograph can be read.
        MicrosegError: The loss is not finite.
        RunMismatchError: Another job is writing into the output, or something there is not ours.
    """
    output = Path(settings.output).absolute()
    _refuse_other_fit(output, settings)
    labelled = find_labelled(settings)
    with sole_writer(output):
        # Again: another job may have come to its end meanwhile.
        return _fit_classifier(settings, labelled, report, proven=_refuse_other_fit(output, settings))


def _refuse_other_fit(output: Path, settings: ClassifierJobSettings) -> bool:
    """Refuse to replace a fit unasked; whether the output is known by its content."""
    ours = is_record(output / "best" / "model.json", "architecture")
    if (output / "metrics.csv").exists() and not settings.overwrite:
        # A file of somebody else is refused as such: `--overwrite` would not help.
        check(output, "classifier", {"metrics.csv": Kind.FILE}, proven=ours)
        raise SettingsError(f"classifier.output: {output} holds a fit; give another output, or --overwrite")
    return ours


def _fit_classifier(
    settings: ClassifierJobSettings, labelled: Labelled, report: Report, *, proven: bool
) -> FittedClassifier:
    output = Path(settings.output).absolute()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    seen = _read(labelled, _seeing(settings), settings)
    claim(
        output,
        "classifier",
        _entries(labelled.splits),
        proven=proven,
    )
    write_failures(output / "failures.csv", labelled.failures)
    accounts = labelled.accounts(one.item.row.name for own in seen.values() for one in own)
    write_accounts(output / ACCOUNTS_FILE, accounts)
    write_leaks(output / "leaks.csv", labelled.leaks)
    fit = _Fit(settings, labelled, seen, output)
    done = fit.run(report)
    done.accounts = accounts
    best = load_classifier(done.best, device=str(fit.device))
    rule = _rule(seen, labelled)
    for split in labelled.splits:
        if split != "train" and seen.get(split):
            verdicts = [_verdict(best, one) for one in seen[split]]
            extra = _baseline(rule, seen[split])
            done.metrics[split] = write_verdict(output / "evaluation" / split, verdicts, labelled.classes, extra)
    settle(output, "classifier")
    return done


def _entries(splits: Iterable[str]) -> dict[str, Kind]:
    files = ["failures.csv", ACCOUNTS_FILE, "leaks.csv", "metrics.csv", "curves.png"]
    for split in splits:
        files += [f"evaluation/{split}/{name}" for name in VERDICT_FILES]
    return {"best": Kind.CHECKPOINT, "last": Kind.CHECKPOINT, **dict.fromkeys(files, Kind.FILE)}


def _seeing(settings: ClassifierJobSettings) -> Seeing:
    size = settings.model.height, settings.model.width
    return Seeing(settings.views, size, settings.in_channels, settings.scaling)


def _read(labelled: Labelled, seeing: Seeing, settings: ClassifierJobSettings) -> dict[str, list[Seen]]:
    seen: dict[str, list[Seen]] = {split: [] for split in labelled.splits}
    for item in labelled.rows:
        try:
            views = read_views(item.row.image, seeing, settings.source)
        except InputError as error:
            reason = str(error).removeprefix(f"{item.row.image}: ")
            labelled.failures.append(Failure(item.row.name, "read", reason))
        else:
            seen[item.row.split].append(Seen(item, views))
    missing = set(range(len(labelled.classes))) - {one.item.label for one in seen["train"]}
    if missing:
        name = labelled.classes[min(missing)]
        raise InputError(settings.images, f"no micrograph of class {name!r} is left to train on", "see `splits`")
    return seen


class _Fit:
    """The state of a fit."""

    def __init__(
        self, settings: ClassifierJobSettings, labelled: Labelled, seen: dict[str, list[Seen]], output: Path
    ) -> None:
        self.settings, self.labelled, self.output = settings, labelled, output
        self.device = torch.device("cuda" if settings.gpu else "cpu")
        self.val = seen.get("val", [])
        self.samples = [(one, place) for one in seen["train"] for place in range(len(one.views.pixels))]
        self.order = BatchOrder(settings.batch, settings.first_seed)
        torch.manual_seed(settings.first_seed)
        model = build_model(settings.model.name, settings.in_channels, len(labelled.classes), settings.model.options)
        self.model = glorot(model).to(self.device)
        self.optimizer = optimizer_of(self.model, settings.optimizer)
        self.progress = Progress(settings.optimizer, settings.early_stopping)
        self.card = self._card(seen["train"])
        self.history: list[dict[str, Any]] = []

    def run(self, report: Report) -> FittedClassifier:
        best, score = self.output / "best", math.inf
        for epoch in range(self.settings.epochs):
            start = time.perf_counter()
            loss, accuracy = self._epoch(epoch)
            val_loss, val_accuracy = self._judge()
            judged = loss if val_loss is None else val_loss
            row = {
                "epoch": epoch + 1,
                "loss": loss,
                "val_loss": val_loss,
                "train_accuracy": accuracy,
                "val_accuracy": val_accuracy,
                "learning_rate": float(self.optimizer.param_groups[0]["lr"]),
                "seconds": time.perf_counter() - start,
                "best": judged < score,
            }
            self.history.append(row)
            card = self.card.model_copy(update={"metrics": row})
            if row["best"]:
                score = judged
                save_checkpoint(best, self.model, card)
            _write_history(self.output / "metrics.csv", self.history)
            if self.progress.update(-judged):
                self.model.load_state_dict(load_checkpoint(best)[0].state_dict())
                self.optimizer.state.clear()
            report(epoch + 1, self.settings.epochs, _line(row))
            if self.progress.stopped:
                break
        save_checkpoint(self.output / "last", self.model, card)
        plot_training(self.output / "curves.png", self.history)
        return FittedClassifier(best, self.output / "last", self.history, self.labelled, stopped=self.progress.stopped)

    def _epoch(self, epoch: int) -> tuple[float, float]:
        self.model.train()
        batches = epoch_order(self.order, len(self.samples), epoch)
        total, right, count = 0.0, 0, 0
        for step, batch in enumerate(batches):
            rate = learning_rate(
                self.settings.optimizer,
                epoch * len(batches) + step,
                self.settings.epochs * len(batches),
                self.settings.epochs,
                self.progress.dropped,
            )
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            images, labels = self._batch(epoch, batch.places.tolist())
            logits = self.model(images)
            loss = functional.cross_entropy(logits, labels, label_smoothing=self.settings.label_smoothing)
            if not bool(torch.isfinite(loss)):
                raise MicrosegError(
                    f"epoch {epoch + 1}, step {step + 1}: the loss is {float(loss)}; lower optimizer.learning_rate"
                )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            total += float(loss.detach()) * len(labels)
            right += int((logits.argmax(1) == labels).sum())
            count += len(labels)
        return total / count, right / count

    def _batch(self, epoch: int, places: list[int]) -> tuple[Tensor, Tensor]:
        chosen = [self.samples[place] for place in places]
        clahe = self.settings.scaling.clahe
        scaled = [
            model_input(torch.from_numpy(one.views.pixels[view : view + 1]), one.views.limits, clahe)
            for one, view in chosen
        ]
        images = torch.cat(scaled).to(self.device)
        settings = self.settings.augmentation
        drawn = draw(self.settings.first_seed, epoch, places, settings, side=max(images.shape[-2:]))
        labels = torch.tensor([one.item.label for one, _ in chosen], device=self.device)
        return augmented(images, drawn), labels

    def _judge(self) -> tuple[float | None, float | None]:
        """Loss and accuracy on the validation micrographs, each the mean over its views."""
        if not self.val:
            return None, None
        self.model.eval()
        classifier = Classifier(
            Predictor(self.model, self.card, "fp32", str(self.device)), _seeing(self.settings), self.card
        )
        found = [(classifier.probabilities(one.views), one.item.label) for one in self.val]
        losses = [-math.log(max(float(probabilities[label]), 1e-12)) for probabilities, label in found]
        right = [int(np.argmax(probabilities)) == label for probabilities, label in found]
        return sum(losses) / len(losses), sum(right) / len(right)

    def _card(self, train: list[Seen]) -> ModelCard:
        colors = {item.name: item.color for item in self.settings.classes}
        sizes = {one.views.pixel_size_um for one in train}
        record = self.settings.resolved()
        kept = ("epochs", "batch", "optimizer", "augment", "label_smoothing", "channels", "seed", "splits")
        return ModelCard(
            architecture=self.settings.model.name,
            options=self.settings.model.options,
            in_channels=self.settings.in_channels,
            classes=tuple(
                ClassSpec(name=name, color=colors.get(name) or default_color(index))
                for index, name in enumerate(self.labelled.classes)
            ),
            scaling=self.settings.scaling,
            # Views of a whole micrograph have no pixel size of their own.
            pixel_size_um=sizes.pop() if len(sizes) == 1 and self.settings.views.kind == "crops" else None,
            receptive_field=measure_receptive_field(self.model, self.settings.in_channels),
            training={
                VIEWS_KEY: record["views"],
                "kind": "classifier",
                "fit_seed": self.settings.first_seed,
                "micrographs": len(train),
                **{key: record[key] for key in kept},
            },
        )


def augmented(images: Tensor, drawn: Draw) -> Tensor:
    """Views changed as drawn, in their own shape.

    A view that is no square cannot lie down: of the 8 symmetries it takes the 4 that keep its sides, and what moves
    pixels reaches into its mirror image.

    Args:
        images: Scaled floats (n, c, y, x).
        drawn: From `draw`, for these n views.

    Example:
        >>> augmented(torch.rand(2, 1, 6, 8), draw(0, 0, [0, 1])).shape
        torch.Size([2, 1, 6, 8])
    """
    height, width = images.shape[-2:]
    side = max(height, width)
    square = images[:, :, _mirrored(height, side)][:, :, :, _mirrored(width, side)]
    masks = torch.zeros((len(images), side, side), dtype=torch.uint8, device=images.device)
    upright = replace(drawn, symmetries=np.zeros_like(drawn.symmetries))
    changed = augment(square, masks, upright)[0][:, :, :height, :width]
    symmetries = drawn.symmetries if height == width else drawn.symmetries // 2 * 2
    return torch.stack(
        [apply_symmetry(view, symmetry) for view, symmetry in zip(changed, symmetries.tolist(), strict=True)]
    )


def glorot(model: nn.Module) -> nn.Module:
    """Weights as the original's framework draws them: uniform, of Glorot's variance, biases zero.

    torch's own draw is a third of that variance. A network of six layers without norms then gives nearly the same
    answer to every picture, and a short fit does not get away from it.

    X. Glorot and Y. Bengio, Understanding the difficulty of training deep feedforward neural networks, 2010.

    Example:
        >>> glorot(nn.Linear(2, 2)).bias.tolist()
        [0.0, 0.0]
    """
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return model


def _mirrored(length: int, wanted: int) -> Tensor:
    """Indices of `wanted` pixels along an axis of `length` that go back and forth."""
    index = torch.arange(wanted) % (2 * length)
    return torch.where(index < length, index, 2 * length - 1 - index)


def _verdict(classifier: Classifier, one: Seen) -> Verdict:
    found = classifier.probabilities(one.views)
    return Verdict(one.item.row.name, found, len(one.views.pixels), one.views.shape, one.item.label)


def _rule(seen: dict[str, list[Seen]], labelled: Labelled) -> GradientRule | None:
    if len(labelled.classes) != 2:
        return None
    train = seen["train"]
    return fit_rule([mean_gradient(one.views) for one in train], [one.item.label for one in train])


def _baseline(rule: GradientRule | None, seen: list[Seen]) -> dict[str, Any]:
    """What the one-feature rule gets on the same micrographs: a classifier that is no better has learnt nothing else."""
    if rule is None:
        return {}
    found = rule.predict(np.array([mean_gradient(one.views) for one in seen]))
    right = found == np.array([one.item.label for one in seen])
    return {
        "one_feature_rule": {"feature": "mean gradient", "threshold": rule.threshold, "accuracy": float(right.mean())}
    }


def _write_history(path: Path, history: list[dict[str, Any]]) -> None:
    write_csv(path, list(history[0]), (list(row.values()) for row in history), line_end="\r\n")


def _line(row: dict[str, Any]) -> str:
    line = f"epoch {row['epoch']}, loss {row['loss']:.4f}, train accuracy {row['train_accuracy']:.4f}"
    return (
        line
        if row["val_loss"] is None
        else f"{line}, val loss {row['val_loss']:.4f}, accuracy {row['val_accuracy']:.4f}"
    )
