"""build_catalog: the micrographs of a job, from patterns of file names or from a table."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from microseg_ray.catalog.pairing import STAGE, group_of, mask_files, pair
from microseg_ray.catalog.rows import Catalog, CatalogRow, relative_name
from microseg_ray.catalog.splits import assign, check_lists, stratify
from microseg_ray.catalog.table import read_table
from microseg_ray.errors import InputError, SettingsError
from microseg_ray.quarantine import Failure
from microseg_ray.sources import listing_root, read_mask, survey_files

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from microseg_ray.files import Place
    from microseg_ray.settings import DataSettings

__all__ = ["build_catalog", "count_mask"]

NO_FILE = "of no file here"


def build_catalog(data: DataSettings, settled: Mapping[str, str] | None = None, *, outputs: bool = False) -> Catalog:
    """Pair micrographs with masks, name their groups, and assign whole groups to splits.

    A mask belongs to the image of the same key: the stem without its suffix. A mask in the same subfolder (relative to
    its own root) comes first, else the only one of that key anywhere. Where images and masks share a folder,
    `mask_suffix` distinguishes them. Without `group`, each key is a group of its own. With `data.table` all of this is read
    from the table, and empty cells are filled in as without one.

    Groups are assigned by the lists in `splits` first. The shares divide the groups that are in no list, after a shuffle that
    depends on the group names and `seed` only; a share above 0 gets at least one group while there are enough. With
    `stratify`, groups then trade places so that the class shares of the splits come near those of the whole; for that,
    and only for that, masks are read. Otherwise only names are used.

    Args:
        data: The shared `data:` section.
        settled: The split of groups that have one already, as those in a store that grows.
        outputs: Whether what jobs of ours wrote counts as micrographs: where masks are compared, they are the masks.

    Returns:
        Rows sorted by name; what was set aside: images without a mask, with two possible masks, that share a mask, or in no
        group; and what was listed and not taken.

    Raises:
        SettingsError: `images` is missing; a split lists a group that is not there; a group is in two lists, or in
            another split than the one settled.
        InputError: A folder is missing or holds no images; the table is not one.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from microseg_ray.settings import DataSettings
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("s1_a.png", "s1_b.png", "s2_a.png"):
        ...         (Path(folder) / name).touch()
        ...     found = build_catalog(DataSettings(images=folder, group="s([0-9]+)", splits={"val": ["2"]}))
        >>> [(row.name, row.group, row.split) for row in found.rows]
        [('s1_a.png', '1', 'train'), ('s1_b.png', '1', 'train'), ('s2_a.png', '2', 'val')]
    """
    found, known = _from_table(data) if data.table is not None else _from_patterns(data, outputs=outputs)
    rows, failures = found.rows, found.failures
    check_lists(known, data.splits)
    fixed = {row.group: row.split for row in rows if row.split}
    _refuse_moves(fixed, data, "the table")
    _refuse_moves(settled or {}, data, "the store")
    moved = next((row for row in rows if row.split and (settled or {}).get(row.group, row.split) != row.split), None)
    if moved is not None:
        raise SettingsError(
            f"data.table: {moved.name} is in split {moved.split}, but its group {moved.group!r} is in split "
            f"{(settled or {})[moved.group]} of the store; change the table, or make the store again with --overwrite"
        )
    fixed = {**fixed, **(settled or {})}
    groups = sorted({row.group for row in rows})
    splits = assign(groups, data.splits, data.seed, fixed)
    if data.stratify:
        listed = {group for members in data.splits.values() if isinstance(members, tuple) for group in members}
        counts = _counts(rows)
        here = {group: splits[group] for group in groups}
        splits = stratify(here, counts, frozenset(listed | set(fixed)))
    rows = [replace(row, split=splits[row.group]) for row in rows]
    rows.sort(key=lambda row: row.name)
    return found._replace(rows=rows, failures=sorted(failures, key=lambda failure: failure.path))


def count_mask(mask: Place) -> NDArray[np.int64]:
    """(256,) int64: how many pixels of a mask hold each value.

    Raises:
        InputError: As `read_mask`.
    """
    return np.bincount(read_mask(mask, None).ravel(), minlength=256).astype(np.int64)


def _from_patterns(data: DataSettings, *, outputs: bool) -> tuple[Catalog, set[str]]:
    if data.images is None:
        raise SettingsError(
            "data.images: missing; give --images, put `images:` under `data:` in the config, or give a table"
        )
    root = listing_root(data.images)
    listing = survey_files(data.images, outputs=outputs)
    images, not_taken = listing.files, listing.not_taken
    failures: list[Failure] = []
    masks: dict[Place, Place | None] = dict.fromkeys(images)
    found: list[Place] = []
    fitting: set[Place] = set()
    if data.masks is not None:
        found = mask_files(data)
        if data.mask_suffix:
            beside = set(found)
            not_taken += tuple((relative_name(image, root), "mask") for image in images if image in beside)
            images = [image for image in images if image not in beside]
        masks, failures, fitting = pair(data, images, found)
    idle = tuple(
        (relative_name(mask, listing_root(data.masks or "")), NO_FILE) for mask in found if mask not in fitting
    )
    failed = {failure.path for failure in failures}
    rows: list[CatalogRow] = []
    known: set[str] = set()
    for image in images:
        group = group_of(data, image, root)
        if group is not None:
            known.add(group)
            if str(image) not in failed:
                rows.append(CatalogRow(relative_name(image, root), image, masks[image], group, ""))
        elif str(image) not in failed:
            reason = f"the name does not match data.group {data.group!r}; rename the file or widen the expression"
            failures.append(Failure(str(image), STAGE, reason))
    listed = tuple(map(str, images))
    return Catalog(rows, failures, listed, not_taken, None if data.masks is None else (len(found), idle)), known


def _from_table(data: DataSettings) -> tuple[Catalog, set[str]]:
    rows: list[CatalogRow] = []
    failures: list[Failure] = []
    table = read_table(data.table or "")
    for row in table:
        group = row.group or group_of(data, row.image, row.image.parent)
        missing = next((path for path in (row.image, row.mask) if path is not None and not path.exists()), None)
        if missing is not None:
            failures.append(Failure(str(row.image), STAGE, f"{missing}: no such file; correct {data.table}"))
        elif group is None:
            reason = f"the name does not match data.group {data.group!r}; give its group in {data.table}"
            failures.append(Failure(str(row.image), STAGE, reason))
        else:
            alone = row.name if data.group is None and not row.group else group
            rows.append(replace(row, group=alone))
    splits: dict[str, CatalogRow] = {}
    for row in rows:
        other = splits.setdefault(row.group, row) if row.split else row
        if other.split != row.split:
            raise InputError(
                data.table,
                f"group {row.group!r} is in two splits: {other.name} in {other.split}, {row.name} in {row.split}",
                "a group stays together: give them one split, or other groups",
            )
    return Catalog(rows, failures, tuple(str(row.image) for row in table)), {row.group for row in rows}


def _refuse_moves(settled: Mapping[str, str], data: DataSettings, where: str) -> None:
    for split, members in data.splits.items():
        for group in members if isinstance(members, tuple) else ():
            if settled.get(group, split) != split:
                raise SettingsError(
                    f"data.splits.{split}: group {group!r} is in split {settled[group]} of {where}; change one of them"
                )


def _counts(rows: list[CatalogRow]) -> dict[str, NDArray[np.int64]]:
    """Class pixels of each group; a mask that cannot be read counts nothing, the job that reads it says why."""
    counts: dict[str, NDArray[np.int64]] = defaultdict(lambda: np.zeros(255, np.int64))
    for row in rows:
        if row.mask is None:
            raise SettingsError("data.stratify: needs masks; give data.masks, or a mask for each row of the table")
        try:
            counts[row.group] += count_mask(row.mask)[:255]
        except InputError:
            counts[row.group] += 0
    used = np.flatnonzero(sum(counts.values(), np.zeros(255, np.int64)))
    return {group: found[used] for group, found in counts.items()}
