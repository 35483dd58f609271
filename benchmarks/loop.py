"""The labelling loop with simulated strokes: places of `next` beside places at random, the same number of strokes.

A person is simulated: at each place they paint the class that is most frequent there and the rarest one that is there, a straight
stroke each that stays within the class, as the truth says. Both ways start from one run and its checkpoint, and learn for the
same number of steps; what differs is where the strokes lie. `python -m benchmarks loop --help` says what can be set.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shlex
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.harness import Table, write
from microseg_ray.cli import main as microseg
from microseg_ray.evaluation.metrics import ConfusionMatrix
from microseg_ray.geometry import Box
from microseg_ray.report.labelling.learning import learn
from microseg_ray.report.labelling.places import Search, find_places
from microseg_ray.report.labelling.rounds import Rounds
from microseg_ray.report.viewer.labels import Labels, Sheet, Ticket
from microseg_ray.report.viewer.strokes import Stroke
from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.settings import IGNORE_INDEX, settings_from
from microseg_ray.settings.learn import LearnSettings
from microseg_ray.sources import member_path, read_mask

Mask = np.ndarray[tuple[int, int], np.dtype[np.uint8]]
Row = tuple[int, int, float, float, tuple[float, ...]]
WAYS = ("next", "random")
_TRIES = 200
_LONGEST = 60
"""Pixels of a stroke."""


@dataclass(frozen=True)
class Plan:
    """What is compared."""

    rounds: int
    places: int
    steps: int
    side: int
    radius: float
    rate: float
    hold: float


def stroke_within(truth: Mask, box: Box, value: int, radius: float, seed: int) -> tuple[tuple[float, float], ...]:
    """A straight stroke in a box that stays within a class: its points, or one point where the class is too small.

    Args:
        truth: (y, x).
        box: Where.
        value: The class; it must be in the box.
        radius: Of the brush in px.
        seed: Of the choice.

    Returns:
        (y, x) of both ends, or of one point in the middle of the class.
    """
    from scipy.ndimage import distance_transform_edt

    generator = np.random.default_rng(seed)
    inside = np.pad(truth[box.slices] == value, 1)
    depth = distance_transform_edt(inside)[1:-1, 1:-1]
    free = np.argwhere(depth > radius)
    if not len(free):
        y, x = np.unravel_index(int(np.argmax(depth)), depth.shape)
        return ((box.y0 + y + 0.5, box.x0 + x + 0.5),)
    best, most = (free[0], free[0]), -1.0
    for _ in range(_TRIES):
        one, two = free[generator.integers(len(free), size=2)]
        length = float(np.hypot(*(two - one)))
        if not most < length <= _LONGEST:
            continue
        path = np.linspace(one, two, int(length) + 1).round().astype(int)
        if (depth[path[:, 0], path[:, 1]] > radius).all():
            best, most = (one, two), length
    return tuple((float(box.y0 + y + 0.5), float(box.x0 + x + 0.5)) for y, x in best)


def random_places(truths: dict[str, Mask], count: int, side: int, seed: int) -> list[tuple[str, Box]]:
    """Squares anywhere in the micrographs, each micrograph by its area."""
    generator = np.random.default_rng(seed)
    names = sorted(truths)
    areas = np.array([truths[name].size for name in names], float)
    found = []
    for name in generator.choice(names, count, p=areas / areas.sum()):
        height, width = truths[str(name)].shape
        y, x = generator.integers(0, height - side + 1), generator.integers(0, width - side + 1)
        found.append((str(name), Box(int(y), int(x), int(y) + side, int(x) + side)))
    return found


class Loop:
    """One way through all rounds, in a copy of the run."""

    def __init__(self, run: Path, truths: dict[str, Mask], place: Path) -> None:
        shutil.copytree(run, place)
        self.run, self.truths = Run.open(place), truths
        self.labels = Labels(place / "labels", self.run.classes)
        self.rounds = Rounds(self.labels.folder)
        self.strokes = self.pixels = 0

    def places(self, way: str, plan: Plan, seed: int) -> list[tuple[str, Box]]:
        """Where to label in this round."""
        if way == "random":
            return random_places(self.truths, plan.places, plan.side, seed)
        found = find_places(self.run, self.labels, Search(plan.places, plan.side), self.rounds.mask)
        return [(place.window.micrograph, place.window.box) for place in found.places]

    def paint(self, name: str, box: Box, radius: float, seed: int) -> None:
        """Two strokes: the most frequent class of a place, and the rarest that is there."""
        truth = self.truths[name]
        counts = np.bincount(truth[box.slices].ravel(), minlength=256)[:IGNORE_INDEX]
        present = np.nonzero(counts)[0]
        if not len(present):
            return
        sheet = Sheet(name, member_path(str(self.run.document["archive"]), name), truth.shape, None)
        for number, value in enumerate((counts.argmax(), present[counts[present].argmin()])):
            points = stroke_within(truth, box, int(value), radius, 2 * seed + number)
            version = len(self.labels.entries(name))
            entry = self.labels.draw(
                sheet, Stroke("brush", int(value), points, radius), Ticket("simulated", "s", version, str(version))
            )
            self.strokes += 1
            self.pixels += entry["pixels"]

    def learn(self, plan: Plan, seed: int) -> float:
        """A round; its seconds."""
        began = time.monotonic()
        given = {
            "run": str(self.run.folder), "minutes": 60.0, "max_steps": plan.steps, "micrographs": tuple(self.truths),
            "learning_rate": plan.rate, "hold": plan.hold, "seed": seed, "threads": 1,
        }  # fmt: skip
        learn(settings_from(LearnSettings, given))
        return time.monotonic() - began

    def quality(self) -> ConfusionMatrix:
        """All pixels of all micrographs against the truth, labelled ones as well."""
        found = ConfusionMatrix.zeros(len(self.run.classes))
        for name, truth in self.truths.items():
            store = self.rounds.mask(name) or MaskStore.open(self.run.store_path(name))
            found.update(truth, store.mask[:])
        return found


def play(run: Path, truths: dict[str, Mask], plan: Plan, way: str, seed: int) -> list[Row]:
    """Play the loop.

    Returns:
        For round 0 (the run as it is) and each round: strokes so far, painted pixels so far, seconds of the round, mean
        IoU, IoU of each class.
    """
    with tempfile.TemporaryDirectory() as folder:
        loop = Loop(run, truths, Path(folder) / "run")
        rows = [(0, 0, 0.0, loop.quality().mean_iou, tuple(loop.quality().iou))]
        for number in range(plan.rounds):
            own = 1000 * seed + 100 * number
            for place, (name, box) in enumerate(loop.places(way, plan, own)):
                loop.paint(name, box, plan.radius, own + place)
            seconds = loop.learn(plan, seed)
            found = loop.quality()
            rows.append((loop.strokes, loop.pixels, seconds, found.mean_iou, tuple(found.iou)))
        return rows


def compared(run: Path, truths: dict[str, Mask], plan: Plan, seeds: int, command: str) -> Table:
    """Both ways, round by round, for several seeds."""
    names = [each.name for each in Run.open(run).classes]
    lines, last = [], {way: [] for way in WAYS}
    for seed in range(seeds):
        for way in WAYS:
            rows = play(run, truths, plan, way, seed)
            for number, (strokes, pixels, seconds, mean, each) in enumerate(rows):
                shares = [f"{value:.4f}" for value in each]
                lines.append(
                    [way, str(seed), str(number), str(strokes), str(pixels), f"{seconds:.0f}", f"{mean:.4f}", *shares]
                )
            last[way].append(rows[-1][3])
            print(
                f"{way}, seed {seed}: mean IoU {' -> '.join(f'{row[3]:.4f}' for row in rows)}",
                file=sys.stderr,
                flush=True,
            )
    columns = ["places", "seed", "round", "strokes", "pixels", "seconds", "mean IoU", *names]
    gain = {f"{way}, last mean IoU": float(np.mean(last[way])) for way in WAYS}
    strokes = f"{plan.places} places of {plan.side} px and {2 * plan.places} strokes a round"
    notes = [
        f"{strokes}; {plan.steps} steps of training; IoU is over all pixels, the few labelled ones as well",
        "seconds are those of the round on this machine, with tiling and segmenting",
    ]
    return Table("loop", command, columns, lines, notes, gain)


def prepared(arguments: argparse.Namespace, folder: Path) -> tuple[Path, dict[str, Mask]]:
    """A run with a poor model, and the truths: of the arguments, or of a simulated archive."""
    if arguments.run:
        run = Path(arguments.run)
        names = Run.open(run).names()
        return run, {
            name: read_mask(str(next(Path(arguments.truth).glob(f"{Path(name).stem}.*"))), None) for name in names
        }
    for part, count, seed in (("train", 3, 0), ("archive", 2, 50)):
        _quiet("simulate", "--output", folder / part, "--count", count, "--size", arguments.size, "--seed", seed)
    learnt = folder / "train"
    _quiet(
        *(
            "tile",
            "--images",
            learnt / "images",
            "--masks",
            learnt / "masks",
            "--output",
            folder / "tiles",
            "--tile",
            128,
        ),
        *("--overlap", 0, "--workers", 0, "--classes", "[matrix,grain,pore]"),
    )
    _quiet(
        *("train", "--tiles", folder / "tiles", "--output", folder / "model", "--epochs", 1, "--steps_per_epoch", 25),
        *("--batch", 4, "--workers", 0, "--model.name", "unet", "--model.width", 6, "--model.depth", 2),
        *("--optimizer.learning_rate", 3e-3, "--threads", 1),
    )
    archive = folder / "archive"
    _quiet(
        *("segment", "--archive", archive / "images", "--checkpoint", folder / "model" / "last", "--extra", "margin"),
        *("--output", folder / "run", "--workers", 0, "--threads", 1, "--runtime", "torch"),
    )
    run = folder / "run"
    truths = {
        name: read_mask(str(next((archive / "masks").glob(f"{Path(name).stem}.*"))), None)
        for name in Run.open(run).names()
    }
    return run, truths


def _quiet(*arguments: object) -> None:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = microseg([str(each) for each in arguments])
    if code:
        raise SystemExit(f"{' '.join(map(str, arguments))}: exit code {code}\n{said.getvalue()}")


def run(arguments: list[str]) -> list[Table]:
    """Play the loop and return its table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks loop", description=__doc__)
    parser.add_argument("--run", help="a run made with --extra margin; default: of simulated micrographs")
    parser.add_argument("--truth", help="folder of true masks with the names of the micrographs of --run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--places", type=int, default=6, help="of a round, two strokes each")
    parser.add_argument("--steps", type=int, default=40, help="of training in a round")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--side", type=int, default=128, help="of a place in px")
    parser.add_argument("--radius", type=float, default=2.5, help="of the brush in px")
    parser.add_argument("--rate", type=float, default=5e-4, help="learning rate")
    parser.add_argument(
        "--hold", type=float, default=4.0, help="weight of what the model said before where nothing is labelled"
    )
    parser.add_argument("--size", type=int, default=512, help="of the simulated micrographs")
    given = parser.parse_args(arguments)
    plan = Plan(given.rounds, given.places, given.steps, given.side, given.radius, given.rate, given.hold)
    with tempfile.TemporaryDirectory() as folder:
        place, truths = prepared(given, Path(folder))
        command = shlex.join(["python", "-m", "benchmarks", "loop", *arguments])
        return [compared(place, truths, plan, given.seeds, command)]


if __name__ == "__main__":
    write(run(sys.argv[1:]), None)
