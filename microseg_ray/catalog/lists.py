"""Splits from text lists of names, as Pascal VOC and the codes that followed it have them."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from microseg_ray.catalog.build import build_catalog
from microseg_ray.catalog.rows import Catalog
from microseg_ray.errors import InputError, SettingsError
from microseg_ray.quarantine import Failure
from microseg_ray.settings import DataSettings

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    from microseg_ray.catalog.rows import CatalogRow

__all__ = ["read_list", "rows_of_lists"]

_MAX_BYTES = 1 << 28
IN_NO_LIST = "in no list"


def read_list(path: str | os.PathLike[str]) -> list[str]:
    r"""The names in a list: the first word of each line that has one.

    Raises:
        InputError: The file cannot be read, or holds no name, or one of them twice.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = (Path(folder) / "train.txt").write_text("11_1_a  1\n\n11_1_b\n")
        ...     read_list(Path(folder) / "train.txt")
        ['11_1_a', '11_1_b']
    """
    file = Path(path)
    try:
        if file.stat().st_size > _MAX_BYTES:
            raise InputError(file, f"larger than {_MAX_BYTES} bytes", "this is no list of names")
        text = file.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise InputError(file, f"the list cannot be read ({error.strerror})", "check catalog.lists") from error
    names = [line.split()[0] for line in text.splitlines() if line.strip()]
    if not names:
        raise InputError(file, "the list is empty", "write a name a line")
    twice = sorted(name for name, count in Counter(names).items() if count > 1)
    if twice:
        raise InputError(file, f"{twice[0]} is here twice", "keep one of the lines")
    return names


def rows_of_lists(data: DataSettings, lists: Mapping[str, str]) -> Catalog:
    r"""The micrographs that lists name, each in the split of its list; what no list names is left out.

    Args:
        data: `images`, `masks`, suffixes and `group`; `splits` have no say.
        lists: By split, the path of its list. A name is a micrograph's stem, or its path below `images` with or without
            suffix.

    Returns:
        Rows sorted by name; names without a micrograph, and micrographs without a certain mask, as failures; and what no list
        names.

    Raises:
        SettingsError: A micrograph or a group (`data.group`) is in two lists: the test set would be known to the model.
        InputError: A list or a folder cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("a.jpg", "b.jpg", "c.jpg"):
        ...         (Path(folder) / name).touch()
        ...     _ = (Path(folder) / "val.txt").write_text("b\nd\n")
        ...     found = rows_of_lists(DataSettings(images=folder), {"val": f"{folder}/val.txt"})
        >>> [(row.name, row.split) for row in found.rows], [failure.path for failure in found.failures]
        ([('b.jpg', 'val')], ['d'])
    """
    found = build_catalog(DataSettings(**{**data.model_dump(), "splits": {}, "stratify": False}))
    rows, failures = found.rows, found.failures
    known: dict[str, list[CatalogRow]] = defaultdict(list)
    for row in rows:
        for key in _keys(row):
            known[key].append(row)
    set_aside = {Path(failure.path).stem: failure for failure in failures}
    chosen: dict[str, CatalogRow] = {}
    missing: list[Failure] = []
    for split, path in lists.items():
        for name in read_list(path):
            match known.get(name, []):
                case [row] if row.name in chosen:
                    raise SettingsError(f"catalog.lists: {name} is in {chosen[row.name].split} and again in {split}")
                case [row]:
                    chosen[row.name] = replace(row, split=split)
                case []:
                    reason = set_aside[name].reason if name in set_aside else f"in {path}, but no image has this name"
                    missing.append(Failure(name, "catalog", reason))
                case [one, other, *_]:
                    reason = f"two images have this name: {one.name} and {other.name}; write the path below data.images"
                    missing.append(Failure(name, "catalog", reason))
    _refuse_torn_groups(chosen.values())
    return _only(found, sorted(chosen.values(), key=lambda row: row.name), missing)


def _only(found: Catalog, rows: list[CatalogRow], missing: list[Failure]) -> Catalog:
    """The catalog with the rows that lists name; a file that was set aside, and that a list names, stays set aside."""
    used, named = {str(row.image) for row in rows}, {failure.path for failure in missing}
    aside = {failure.path for failure in found.failures if Path(failure.path).stem in named}
    listed = tuple(path for path in found.listed if path in used | aside)
    idle = tuple((Path(path).name, IN_NO_LIST) for path in found.listed if path not in used | aside)
    failures = [
        replace(failure, path=next((path for path in sorted(aside) if Path(path).stem == failure.path), failure.path))
        for failure in missing
    ]
    masks = None
    if found.masks is not None:
        kept = {row.name for row in rows}
        others = tuple(
            (row.mask.name, IN_NO_LIST) for row in found.rows if row.mask is not None and row.name not in kept
        )
        masks = found.masks[0], (*found.masks[1], *others)
    return Catalog(rows, failures, listed, (*found.not_taken, *idle), masks)


def _refuse_torn_groups(rows: Iterable[CatalogRow]) -> None:
    first: dict[str, CatalogRow] = {}
    for row in rows:
        other = first.setdefault(row.group, row)
        if other.split != row.split:
            raise SettingsError(
                f"catalog.lists: group {row.group!r} is in two lists: {other.name} in {other.split}, {row.name} in "
                f"{row.split}; a group stays together, or the model is tested on what it was trained on"
            )


def _keys(row: CatalogRow) -> set[str]:
    return {row.name, row.name.removesuffix(row.image.suffix), row.image.stem}
