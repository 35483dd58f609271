"""Which micrographs belong to which class and split: a folder per class, copies and mirrors of one micrograph together."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.catalog import CatalogRow, Leak, Reduced, build_catalog, find_leaks, reduce_micrograph
from microseg_ray.catalog.splits import assign, check_lists, stratify
from microseg_ray.errors import InputError, SettingsError
from microseg_ray.quarantine import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from microseg_ray.accounts import Account
    from microseg_ray.catalog import Catalog
    from microseg_ray.settings import ClassifierJobSettings

__all__ = ["SPLITS", "Labelled", "LabelledRow", "class_folder", "find_labelled"]

SPLITS = ("train", "val", "test")
"""Sub-folders of these names are splits, and the folders in them the classes; the later one keeps what two show."""

_STAGE = "labels"
_NAMED = 6


@dataclass(frozen=True)
class LabelledRow:
    """One micrograph with its class.

    Attributes:
        row: Name, path and split; its group is that of all its copies and mirrors.
        label: Index of its class.
    """

    row: CatalogRow
    label: int


@dataclass
class Labelled:
    """What a folder of folders holds.

    Attributes:
        classes: Names, alphabetical unless the settings give them.
        rows: Sorted by name.
        failures: Files that could not be used.
        leaks: Pairs in different splits that show the same, as the folders have them.
        dropped: Names left out of training because another split shows the same.
        catalog: What was listed; None where no folder was.
    """

    classes: tuple[str, ...]
    rows: list[LabelledRow]
    failures: list[Failure] = field(default_factory=list)
    leaks: list[Leak] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    catalog: Catalog | None = None

    def of(self, split: str) -> list[LabelledRow]:
        """The rows of one split."""
        return [item for item in self.rows if item.row.split == split]

    def accounts(self, used: Iterable[str]) -> tuple[Account, ...]:
        """Files: seen = used + set aside + not taken, given the names of what was used."""
        if self.catalog is None:
            return ()
        names = set(used)
        left = tuple((name, "shown in another split, too") for name in self.dropped)
        return self.catalog.accounts([row for row in self.catalog.rows if row.name in names], self.failures, left)

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that hold a micrograph, train first."""
        held = {item.row.split for item in self.rows}
        return tuple(name for name in SPLITS if name in held) + tuple(sorted(held - set(SPLITS)))


def class_folder(name: str) -> tuple[str, str]:
    """The split and the class that a micrograph's name says; "" where it says none.

    Example:
        >>> class_folder("train/coarse/24.png"), class_folder("fine/7.png"), class_folder("7.png")
        (('train', 'coarse'), ('', 'fine'), ('', ''))
    """
    folders = name.split("/")[:-1]
    split = folders.pop(0) if len(folders) > 1 and folders[0] in SPLITS else ""
    return split, folders[0] if folders else ""


def find_labelled(settings: ClassifierJobSettings) -> Labelled:
    """The micrographs below `images`, their classes, and splits that no micrograph is in twice.

    Classes are the names of the sub-folders, or of those in `train`, `val` and `test` where there are such. Micrographs
    that are equal, mirrored, rotated or nearly equal (the audit's rules) join one group, beside `data.group`. Groups
    whose folder says val or test stay there; the others are divided by `splits`, whole, with the classes spread evenly
    where `stratify` is set.

    Args:
        settings: `images`, `classes`, `group`, `splits`, `stratify`, `audit`, `drop_leaks`, `seed` and `source` count.

    Raises:
        SettingsError: Fewer than two classes, or other classes than the settings name; no micrograph to train on.
        InputError: Folders leak into each other, and `audit` is `stop`; the folder is missing.
    """
    data = settings.data.model_copy(update={"stratify": False, "splits": {}})
    catalog = build_catalog(data)
    failures = catalog.failures
    rows = []
    for row in catalog.rows:
        split, name = class_folder(row.name)
        if name:
            rows.append((row, split, name))
        else:
            reason = "lies in no folder that would name its class; move it into one"
            failures.append(Failure(row.name, _STAGE, reason))
    classes = _classes(settings, {name for _, _, name in rows})
    labels = {row.name: classes.index(name) for row, _, name in rows}
    folders = {row.name: split or "train" for row, split, _ in rows}
    good, leaks = _audited(settings, [row for row, _, _ in rows], folders, failures)
    leaks = _without_conflicts(leaks, labels, failures)
    failed = {failure.path for failure in failures}
    good = [row for row in good if row.name not in failed]
    groups = _joined(good, leaks)
    across = [leak for leak in leaks if leak.first_split != leak.second_split]
    dropped: list[str] = []
    if across and settings.drop_leaks:
        good, dropped = _without_leaks(good, folders, groups)
    elif across and settings.audit == "stop":
        raise InputError(
            settings.images,
            f"{len(across)} pairs of micrographs in different splits show the same: {_some(map(str, across))}",
            "give --drop_leaks to leave them out of training, or --audit report to train all the same",
        )
    splits = _splits(settings, good, groups, (folders, labels))
    done = [
        LabelledRow(CatalogRow(row.name, row.image, None, groups[row.name], splits[row.name]), labels[row.name])
        for row in good
    ]
    if not any(item.row.split == "train" for item in done):
        raise SettingsError(f"classifier.images: {settings.images} holds no micrograph to train on; see `splits`")
    return Labelled(classes, done, failures, across, dropped, catalog)


def _classes(settings: ClassifierJobSettings, found: set[str]) -> tuple[str, ...]:
    names = tuple(item.name for item in settings.classes) or tuple(sorted(found))
    strange = sorted(found - set(names))
    if strange:
        raise SettingsError(
            f"classes: the folder {strange[0]!r} is none of {', '.join(names)}; name it, or move it away"
        )
    empty = [name for name in names if name not in found]
    if empty:
        raise SettingsError(f"classes: {settings.images} has no micrographs in a folder {empty[0]!r}")
    if len(names) < 2:
        raise SettingsError(
            f"classifier.images: {settings.images} has {len(names)} folders of micrographs; a classifier needs two or more"
        )
    return names


def _audited(
    settings: ClassifierJobSettings, rows: Sequence[CatalogRow], folders: Mapping[str, str], failures: list[Failure]
) -> tuple[list[CatalogRow], list[Leak]]:
    """The micrographs that can be read, and all pairs among them that show the same."""
    good: list[CatalogRow] = []
    reduced: list[Reduced] = []
    for row in rows:
        try:
            reduced.append(reduce_micrograph(row.image, settings.source))
        except InputError as error:
            failures.append(Failure(row.name, "open", str(error).removeprefix(f"{row.image}: ")))
        else:
            good.append(CatalogRow(row.name, row.image, None, row.group, folders[row.name]))
    if settings.audit == "off":
        return good, []
    # Each by itself: a group of the user's may hold a copy in another folder, and that is a leak, too.
    alone = [CatalogRow(row.name, row.image, None, row.name, row.split) for row in good]
    return good, find_leaks(alone, reduced, within=True, source=settings.source)


def _without_conflicts(leaks: list[Leak], labels: Mapping[str, int], failures: list[Failure]) -> list[Leak]:
    """Micrographs that two classes claim teach nothing: both are set aside."""
    bad = {
        name: other
        for leak in leaks
        if leak.kind != "near" and labels[leak.first] != labels[leak.second]
        for name, other in ((leak.first, leak.second), (leak.second, leak.first))
    }
    failures += [
        Failure(name, _STAGE, f"{other} shows the same and is of another class; remove one of them")
        for name, other in sorted(bad.items())
    ]
    return [leak for leak in leaks if leak.first not in bad and leak.second not in bad]


def _joined(rows: Sequence[CatalogRow], leaks: Iterable[Leak]) -> dict[str, str]:
    """The group of each micrograph: the first name among the groups that pairs tie together."""
    parent = {row.group: row.group for row in rows}

    def root(group: str) -> str:
        while parent[group] != group:
            group = parent[group]
        return group

    own = {row.name: row.group for row in rows}
    for leak in leaks:
        if leak.first in own and leak.second in own:
            first, second = sorted((root(own[leak.first]), root(own[leak.second])))
            parent[second] = first
    return {name: root(group) for name, group in own.items()}


def _without_leaks(
    rows: Sequence[CatalogRow], folders: Mapping[str, str], groups: Mapping[str, str]
) -> tuple[list[CatalogRow], list[str]]:
    """Of a group in several folders, only what lies in the last of them: test before val before train."""
    last: dict[str, int] = defaultdict(int)
    for row in rows:
        last[groups[row.name]] = max(last[groups[row.name]], SPLITS.index(folders[row.name]))
    kept = [row for row in rows if SPLITS.index(folders[row.name]) == last[groups[row.name]]]
    names = {row.name for row in kept}
    return kept, [row.name for row in rows if row.name not in names]


def _splits(
    settings: ClassifierJobSettings,
    rows: Sequence[CatalogRow],
    groups: Mapping[str, str],
    labelled: tuple[Mapping[str, str], Mapping[str, int]],
) -> dict[str, str]:
    """The split of each micrograph: its folder's if that is val or test, else its group's."""
    folders, labels = labelled
    root_of = {row.group: groups[row.name] for row in rows}
    lists = {
        name: tuple(sorted({root_of.get(group, group) for group in members})) if isinstance(members, tuple) else members
        for name, members in settings.splits.items()
    }
    check_lists(set(root_of.values()), lists)
    settled = {groups[row.name]: folders[row.name] for row in rows if folders[row.name] != "train"}
    listed = {group for members in lists.values() if isinstance(members, tuple) for group in members}
    assigned = assign(sorted(set(root_of.values())), lists, settings.seed, settled)
    if settings.stratify:
        counts: dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]] = defaultdict(
            lambda: np.zeros(max(labels.values()) + 1, np.int64)
        )
        for row in rows:
            counts[groups[row.name]][labels[row.name]] += 1
        assigned = stratify(assigned, counts, frozenset(listed | set(settled)))
    if settings.audit == "report":
        # What leaks was to be kept as it lies.
        return {
            row.name: assigned[groups[row.name]] if folders[row.name] == "train" and groups[row.name] not in settled
            else folders[row.name]
            for row in rows
        }  # fmt: skip
    return {row.name: assigned[groups[row.name]] for row in rows}


def _some(texts: Iterable[str]) -> str:
    every = list(texts)
    return "; ".join(every[:_NAMED]) + (f" and {len(every) - _NAMED} more" if len(every) > _NAMED else "")
