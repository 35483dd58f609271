"""judged_model.json: which model an evaluation judged and how it was used; by it a run finds the test of its own model."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import UNREADABLE, MicrosegError, SettingsError
from microseg_ray.evaluation.confusions import CONFUSIONS_FILE, Confusions, read_confusions
from microseg_ray.files import place, write_json
from microseg_ray.names import text
from microseg_ray.runs.intervals import ModelTest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from microseg_ray.files import Place
    from microseg_ray.runs.folder import Run

__all__ = ["JUDGED_FILE", "Judged", "model_test", "write_judged"]

JUDGED_FILE = "judged_model.json"
AUTO, NONE = "auto", "none"
TEST_SPLIT = "test"
LEAST_UNITS = 3
"""Test micrographs or groups from which an evaluation is taken unasked: two leave one degree of freedom."""

_FOLDER = "evaluation"
_ANYWAY = "--intervals.evaluation FOLDER takes it all the same"
_USE = ("blend", "overlap", "tta", "intensity_mismatch", "threshold", "postprocess")
"""Settings that change the rates of a model's errors; tiles, strips and precision change single pixels only."""


@dataclass(frozen=True)
class Judged:
    """What was judged.

    Attributes:
        model_digest: Of the model, None where masks from elsewhere were judged.
        checkpoint: Its folder or folders.
        run: The run whose masks were judged, or None.
        split: The split that was judged, None for all micrographs.
        pixels: The settings that decide pixels, as in a run's identity.
    """

    model_digest: str | None = None
    checkpoint: tuple[str, ...] = ()
    run: str | None = None
    split: str | None = None
    pixels: Mapping[str, Any] = field(default_factory=dict)

    def objection(self, run: Run) -> str:
        """Why this is no test of what made the masks of a run; empty where it is one."""
        if self.model_digest is None:
            return "it judged masks from elsewhere, not those of a known model"
        if self.model_digest != run.identity.model_digest:
            return f"it judged another model ({self.model_digest[:12]}; the run's is {run.identity.model_digest[:12]})"
        here = _plain(run.identity.pixels)
        other = [
            f"{key} {_shown(self.pixels.get(key))} there, {_shown(here.get(key))} here"
            for key in _USE
            if self.pixels.get(key) != here.get(key)
        ]
        return f"it judged the same model used otherwise ({'; '.join(other)})" if other else ""


def write_judged(folder: Place, judged: Judged) -> None:
    """Write judged_model.json, bound to the confusion matrices that lie beside it.

    Args:
        folder: Of the evaluation.
        judged: What was judged.
    """
    write_json(folder / JUDGED_FILE, {**asdict(judged), "confusions_sha256": _digest(folder)}, sort_keys=True)


def model_test(run: Run, wanted: str | None) -> tuple[ModelTest | None, list[str]]:
    """The test set that corrects the areas of a run.

    Args:
        run: The run.
        wanted: Folder of an evaluation; `auto` for one beside the run or its checkpoint, that judged the run's own model on the
            split `test`; `none` or None for no test set.

    Returns:
        The test set or None, and what is to be said about it.

    Raises:
        SettingsError: The folder that was asked for cannot be read, or judged another model.
    """
    if wanted is None or wanted == NONE:
        return None, []
    if wanted != AUTO:
        return _asked_for(run, place(wanted))
    notes: list[str] = []
    for folder in _places(run):
        if not (folder / JUDGED_FILE).is_file():
            continue
        try:
            reason, found = _unasked(run, folder)
        except MicrosegError as error:
            reason, found = str(error), None
        if found is not None:
            where = _source(run, folder)
            said = f"areas are corrected by the evaluation {where} ({len(found.matrices)} test micrographs)"
            return _test(found, where), [*notes, f"{said}; --intervals.evaluation none leaves it out"]
        notes.append(f"the evaluation {_source(run, folder)} is not used: {reason}")
    return None, notes or [
        "no interval holds the model's error: no evaluation of this model was found beside the run or its checkpoint"
    ]


def _asked_for(run: Run, folder: Place) -> tuple[ModelTest, list[str]]:
    found = read_confusions(folder, run.classes)
    where = found.path.parent
    if not (where / JUDGED_FILE).is_file():
        note = f"{text(str(where))} does not say which model it judged ({JUDGED_FILE} is missing); nothing was compared"
        return _test(found, _source(run, where)), [note]
    judged, _ = _read(where)
    objection = judged.objection(run)
    if objection and judged.model_digest is not None:
        raise SettingsError(
            f"measure.intervals.evaluation: {text(str(where))}: {objection}, so its errors are not those of this run; evaluate "
            "the run's model with the run's settings, or give none"
        )
    notes = [f"{text(str(where))}: {objection}"] if objection else []
    if judged.split != TEST_SPLIT:
        notes.append(
            f"{text(str(where))} judged {_split_words(judged.split)}: a model errs less on what it was trained on"
        )
    return _test(found, _source(run, where)), notes


def _unasked(run: Run, folder: Place) -> tuple[str, Confusions | None]:
    """Why an evaluation is not taken, or what it counted."""
    judged, digest = _read(folder)
    objection = judged.objection(run)
    if objection:
        return objection, None
    if judged.split != TEST_SPLIT:
        return (
            f"it judged {_split_words(judged.split)}, not the split test; {_ANYWAY}",
            None,
        )
    if digest != _digest(folder):
        return f"{CONFUSIONS_FILE} was changed after it was written; evaluate again", None
    found = read_confusions(folder, run.classes)
    units = {found.groups.get(name, name) for name, matrix in found.matrices.items() if matrix.counts.sum()}
    if len(units) < LEAST_UNITS:
        few = f"it has {len(units)} test micrographs or groups, and {LEAST_UNITS} are needed"
        return f"{few}; {_ANYWAY}", None
    return "", found


def _places(run: Run) -> list[Place]:
    """Beside the run, beside its checkpoints, and one folder above these, as `evaluate` and the configs have it."""
    given = run.document["checkpoint"]
    parents = [place(where).parent for where in ([given] if isinstance(given, str) else given)]
    above = [run.folder.parent, *parents, *(parent.parent for parent in parents)]
    return list(dict.fromkeys((folder / _FOLDER).absolute() for folder in above))


def _read(folder: Place) -> tuple[Judged, str]:
    """What was judged, and the digest of the confusion matrices.

    Raises:
        SettingsError: The file is damaged.
    """
    path = folder / JUDGED_FILE
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        digest = str(document.pop("confusions_sha256"))
        judged = Judged(**{**document, "checkpoint": tuple(document["checkpoint"])})
        _ = judged.pixels.get("tta"), judged.split in {None, ""}
    except (OSError, *UNREADABLE) as error:
        raise SettingsError(f"{text(str(path))}: damaged ({error}); evaluate again") from error
    return judged, digest


def _test(found: Confusions, source: str) -> ModelTest:
    return ModelTest({name: matrix.counts for name, matrix in found.matrices.items()}, found.groups, source)


def _source(run: Run, folder: Place) -> str:
    """An evaluation as the tables name it: from the run's folder where both lie together, so that they may be moved."""
    folder = folder.absolute()
    if not isinstance(run.folder, Path) or not isinstance(folder, Path):
        return text(str(folder))
    near = folder.is_relative_to(run.folder.parent) or folder.is_relative_to(run.folder.parent.parent)
    return text(os.path.relpath(folder, run.folder) if near else str(folder))


def _split_words(split: str | None) -> str:
    return "all micrographs" if split is None else f"the split {text(split)}"


def _digest(folder: Place) -> str:
    try:
        return hashlib.sha256((folder / CONFUSIONS_FILE).read_bytes()).hexdigest()
    except FileNotFoundError:
        return ""


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """As JSON gives it back."""
    found: dict[str, Any] = json.loads(json.dumps(dict(values), default=asdict))
    return found


def _shown(value: object) -> str:
    return "not used" if value is None else str(value)
