"""Which micrographs a job works on, which mask belongs to each, and which split each is in.

Nothing is opened here: pairing, grouping and splitting look at names alone. What cannot be used becomes a `Failure`, and
the rest goes on.
"""

from __future__ import annotations

import csv
import os
import random
import re
from collections import defaultdict
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from microseg_ray.errors import SettingsError
from microseg_ray.sources import list_files, listing_root

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from microseg_ray.settings import DataSettings

__all__ = ["CatalogRow", "Failure", "build_catalog", "relative_name", "write_failures"]

_STAGE = "catalog"
_REST = "train"


@dataclass(frozen=True)
class CatalogRow:
    """One micrograph of a job.

    Attributes:
        name: Posix path of the image relative to the listing root, with its suffix; unique.
        image: Absolute path.
        mask: Absolute path, or None where the job has no masks.
        group: What must stay together in one split.
        split: "train", or what the settings say.

    Example:
        >>> CatalogRow("a/b#1.tif", Path("/data/a/b#1.tif"), None, "a/b#1", "train").name
        'a/b#1.tif'
    """

    name: str
    image: Path
    mask: Path | None
    group: str
    split: str


@dataclass(frozen=True)
class Failure:
    """An input that was set aside, and why.

    Example:
        >>> Failure("a.tif", "catalog", "no mask").stage
        'catalog'
    """

    path: str
    stage: str
    reason: str


def build_catalog(data: DataSettings) -> tuple[list[CatalogRow], list[Failure]]:
    """Pair micrographs with masks, name their groups, and assign whole groups to splits.

    A mask belongs to the image of the same key: the stem without its suffix. A mask in the same subfolder (relative to
    its own root) comes first, else the only one of that key anywhere. Where images and masks share a folder,
    `mask_suffix` tells them apart. Without `group`, each key is a group of its own.

    Groups are assigned by the lists in `splits` first. The shares divide the groups that are in no list, after a shuffle that
    depends on the group names and `seed` only; a share above 0 gets at least one group while there are enough.

    Args:
        data: The shared `data:` section.

    Returns:
        Rows sorted by name, and what was set aside: images without a mask, with two possible masks, that share a mask, or
        in no group.

    Raises:
        SettingsError: `images` is missing; a split lists a group that is not there; a group is in two lists.
        InputError: A folder is missing or holds no images.

    Example:
        >>> import tempfile
        >>> from microseg_ray.settings import DataSettings
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("s1_a.png", "s1_b.png", "s2_a.png"):
        ...         (Path(folder) / name).touch()
        ...     rows, _ = build_catalog(DataSettings(images=folder, group="s([0-9]+)", splits={"val": ["2"]}))
        >>> [(row.name, row.group, row.split) for row in rows]
        [('s1_a.png', '1', 'train'), ('s1_b.png', '1', 'train'), ('s2_a.png', '2', 'val')]
    """
    if data.images is None:
        raise SettingsError("data.images: missing; give --images or put `images:` under `data:` in the config")
    root = listing_root(data.images)
    images = list_files(data.images)
    failures: list[Failure] = []
    masks: dict[Path, Path | None] = dict.fromkeys(images)
    if data.masks is not None:
        mask_files = _masks_of(data)
        images = [image for image in images if image not in set(mask_files)] if data.mask_suffix else images
        masks, failures = _pair(data, images, mask_files)
    failed = {failure.path for failure in failures}
    groups: dict[Path, str] = {}
    for image in images:
        group = _group(data, image, root)
        if group is not None:
            groups[image] = group
        elif str(image) not in failed:
            reason = f"the name does not match data.group {data.group!r}; rename the file or widen the expression"
            failures.append(Failure(str(image), _STAGE, reason))
    usable = [image for image in images if image in groups and str(image) not in failed]
    _check_lists(set(groups.values()), data.splits)
    splits = _assign(sorted({groups[image] for image in usable}), data.splits, data.seed)
    rows = [
        CatalogRow(relative_name(image, root), image, masks[image], groups[image], splits[groups[image]])
        for image in usable
    ]
    return sorted(rows, key=lambda row: row.name), sorted(failures, key=lambda failure: failure.path)


def relative_name(path: str | os.PathLike[str], root: str | os.PathLike[str]) -> str:
    """The name of a micrograph: its posix path relative to the listing root, with its suffix.

    Raises:
        ValueError: The path is not inside the root.

    Example:
        >>> relative_name("/data/batch 1/a#2 (3).tif", "/data")
        'batch 1/a#2 (3).tif'
    """
    return Path(path).relative_to(root).as_posix()


def write_failures(path: str | os.PathLike[str], failures: Iterable[Failure]) -> None:
    """Write the inputs that were set aside as CSV with the columns path, stage, reason; whole or not at all.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_failures(Path(folder) / "failures.csv", [Failure("a, b.tif", "read", "truncated")])
        ...     (Path(folder) / "failures.csv").read_text(encoding="utf-8").splitlines()
        ['path,stage,reason', '"a, b.tif",read,truncated']
    """
    target = Path(path)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    # surrogateescape: a file name need not be valid UTF-8.
    with partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["path", "stage", "reason"])
        writer.writerows(astuple(failure) for failure in failures)
    partial.replace(target)


def _masks_of(data: DataSettings) -> list[Path]:
    files = list_files(data.masks or "")
    if not data.mask_suffix:
        return files
    named = [file for file in files if file.stem.endswith(data.mask_suffix)]
    if not named:
        raise SettingsError(
            f"data.mask_suffix {data.mask_suffix!r}: no file in {data.masks} has it, as {files[0].name}"
        )
    return named


def _pair(
    data: DataSettings, images: Sequence[Path], mask_files: Sequence[Path]
) -> tuple[dict[Path, Path | None], list[Failure]]:
    image_root, mask_root = listing_root(data.images or ""), listing_root(data.masks or "")
    near: dict[tuple[Path, str], list[Path]] = defaultdict(list)
    anywhere: dict[str, list[Path]] = defaultdict(list)
    for mask in mask_files:
        key = mask.stem.removesuffix(data.mask_suffix)
        near[mask.relative_to(mask_root).parent, key].append(mask)
        anywhere[key].append(mask)
    masks: dict[Path, Path | None] = dict.fromkeys(images)
    failures: list[Failure] = []
    claims: dict[Path, list[tuple[bool, Path]]] = defaultdict(list)
    for image in images:
        key = image.stem.removesuffix(data.image_suffix)
        beside = near.get((image.relative_to(image_root).parent, key), [])
        found = beside or anywhere.get(key, [])
        if len(found) == 1:
            masks[image] = found[0]
            claims[found[0]].append((not beside, image))
        elif found:
            reason = f"two masks fit: {found[0]} and {found[1]}; remove one, or set data.mask_suffix"
            failures.append(Failure(str(image), _STAGE, reason))
        else:
            reason = f"no mask named {key}{data.mask_suffix}.* in {data.masks}"
            failures.append(Failure(str(image), _STAGE, reason))
    for mask, claimants in claims.items():
        failures += _disputed(mask, claimants)
    return masks, failures


def _disputed(mask: Path, claimants: list[tuple[bool, Path]]) -> list[Failure]:
    """Images that a mask cannot belong to, because it belongs to another, or to none for certain."""
    if len(claimants) == 1:
        return []
    owners = [image for far, image in claimants if not far]
    losers = [image for far, image in claimants if far] if len(owners) == 1 else [image for _, image in claimants]
    return [
        Failure(
            str(image),
            _STAGE,
            f"its mask {mask} also fits {next(other for _, other in claimants if other != image)}; rename one of the images",
        )
        for image in losers
    ]


def _group(data: DataSettings, image: Path, root: Path) -> str | None:
    if data.group is None:
        key = image.stem.removesuffix(data.image_suffix)
        return (image.relative_to(root).parent / key).as_posix()
    match = re.search(data.group, image.stem)
    if match is None:
        return None
    found = match.group(1) if match.re.groups else match.group(0)
    return str(found) if found else None


def _check_lists(known: set[str], splits: Mapping[str, float | tuple[str, ...]]) -> None:
    seen: dict[str, str] = {}
    for split, members in splits.items():
        for group in members if isinstance(members, tuple) else ():
            if group not in known:
                shown = ", ".join(sorted(known)[:10]) + (" ..." if len(known) > 10 else "")
                raise SettingsError(f"data.splits.{split}: there is no group {group!r}; known are {shown}")
            if group in seen:
                raise SettingsError(f"data.splits: group {group!r} is listed twice, in {seen[group]} and in {split}")
            seen[group] = split


def _assign(groups: Sequence[str], splits: Mapping[str, float | tuple[str, ...]], seed: int) -> dict[str, str]:
    """The split of each group."""
    lists = {split: members for split, members in splits.items() if isinstance(members, tuple)}
    assigned = {group: split for split, members in lists.items() for group in members}
    shares = {split: float(share) for split, share in splits.items() if not isinstance(share, tuple)}
    shares[_REST] = shares.get(_REST, 0.0) + max(0.0, 1.0 - sum(shares.values()))
    free = [group for group in groups if group not in assigned]
    # Random.random() is the one method whose numbers are promised to stay the same in every Python.
    numbers = random.Random(seed)
    shuffled = [group for _, group in sorted((numbers.random(), group) for group in free)]
    start = 0
    for split, count in _apportion(shares, len(free)).items():
        assigned.update(dict.fromkeys(shuffled[start : start + count], split))
        start += count
    return assigned


def _apportion(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers that add up to `total`, as near to the shares as can be, none 0 where its share is not."""
    counts = {split: int(share * total + 1e-9) for split, share in shares.items()}
    by_remainder = sorted(shares, key=lambda split: counts[split] - shares[split] * total)
    for split in by_remainder[: total - sum(counts.values())]:
        counts[split] += 1
    for split in (split for split, share in shares.items() if share > 1e-9 and counts[split] == 0):
        largest = max(counts, key=lambda other: counts[other])
        if counts[largest] > 1:
            counts[largest] -= 1
            counts[split] += 1
    return counts
