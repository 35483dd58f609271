"""The rounds of learning of a folder of labels.

```
LABELS/learn/
  progress.json   how far the running round is, or how the last one ended
  tiles/          the tile store of the last round
  0001/
    model/        the fit; its `last` is the checkpoint of the round
    runs/         a run for each micrograph that was segmented again, named by a digest of the micrograph's name
    round.json    written last: a round without it was broken off, and the next one takes its place
```
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from microseg_ray.errors import UNREADABLE, MicrosegError, StoreError
from microseg_ray.files import write_json
from microseg_ray.outputs import Kind, claim
from microseg_ray.report.viewer.subject import key_of, short_digest
from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore

__all__ = ["PROGRESS_FILE", "Change", "Round", "Rounds"]

PROGRESS_FILE = "progress.json"
_ROUND_FILE = "round.json"


@dataclass(frozen=True)
class Change:
    """What a round did to one micrograph.

    Attributes:
        key: Of the micrograph, as in the page.
        pixels: Pixels that both masks measure.
        changed: How many of them have another class now.
        labelled: Labelled pixels among them. They were trained on, so they prove nothing about the rest.
        right_before: How many of those had their label's class before.
        right_after: And now.
    """

    key: str
    pixels: int
    changed: int
    labelled: int
    right_before: int
    right_after: int


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        number: From 1.
        when: Its end, in UTC.
        start: The checkpoint that it started from.
        classes: Names, in the order of the masks' values.
        labelled: Labelled pixels in the training tiles, of each class; tiles overlap, so a pixel may be in several.
        steps: Steps of training.
        seconds: Of each stage.
        changes: Of each micrograph that was segmented again.
    """

    number: int
    when: str
    start: str
    classes: tuple[str, ...]
    labelled: tuple[int, ...]
    steps: int
    seconds: dict[str, float]
    changes: tuple[Change, ...]


class Rounds:
    """The rounds below a folder of labels.

    Args:
        labels: The folder of labels; nothing is made in it before a round begins.
    """

    def __init__(self, labels: Path) -> None:
        self.folder = labels.absolute() / "learn"

    def place(self, number: int) -> Path:
        """The folder of a round."""
        return self.folder / f"{number:04d}"

    def checkpoint(self, number: int) -> Path:
        """The checkpoint of a round."""
        return self.place(number) / "model" / "last"

    def run_folder(self, number: int, name: str) -> Path:
        """The run that holds the mask of a micrograph of a round."""
        return self.place(number) / "runs" / short_digest(name)

    def last(self) -> int:
        """The number of the last complete round; 0 for none."""
        numbers = (int(path.parent.name) for path in self.folder.glob(f"[0-9][0-9][0-9][0-9]/{_ROUND_FILE}"))
        return max(numbers, default=0)

    def read(self, number: int) -> Round:
        """What a round recorded.

        Raises:
            StoreError: There is no such round, or its record is damaged.
        """
        path = self.place(number) / _ROUND_FILE
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            changes = tuple(Change(**each) for each in found.pop("changes"))
            classes, labelled = tuple(found.pop("classes")), tuple(found.pop("labelled"))
            return Round(**found, classes=classes, labelled=labelled, changes=changes)
        except (OSError, *UNREADABLE) as error:
            raise StoreError(f"{path}: cannot be read ({error}); delete the folder of this round") from error

    def write(self, done: Round) -> None:
        """Record a round; from here on it is complete."""
        claim(self.place(done.number), "learn", {_ROUND_FILE: Kind.FILE})
        write_json(self.place(done.number) / _ROUND_FILE, asdict(done))

    def mask(self, name: str) -> MaskStore | None:
        """The newest mask of a micrograph that a complete round made; None where none did."""
        found = self.newest(name)
        return None if found is None else found[1]

    def newest(self, name: str, before: int | None = None) -> tuple[int, MaskStore] | None:
        """The last complete round that segmented a micrograph, and its mask.

        Args:
            name: The micrograph.
            before: Only rounds before this one; None for all.
        """
        last = self.last() if before is None else before - 1
        for number in range(last, 0, -1):
            folder = self.run_folder(number, name)
            if not (self.place(number) / _ROUND_FILE).is_file() or not (folder / "run.json").is_file():
                continue
            with contextlib.suppress(MicrosegError):
                store = MaskStore.open(Run.open(folder).store_path(Path(name).name))
                if store.finished:
                    return number, store
        return None

    def changes(self, name: str) -> list[dict[str, Any]]:
        """What each round did to a micrograph, the first one first, as plain JSON types."""
        found = []
        for number in range(1, self.last() + 1):
            try:
                record = self.read(number)
            except StoreError:
                continue
            found += [
                {"round": number, "when": record.when, "steps": record.steps, "seconds": record.seconds, **asdict(each)}
                for each in record.changes
                if each.key == key_of(name)
            ]
        return found
