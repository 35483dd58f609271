"""Whole groups to splits: by list, by share, or by share with the classes spread evenly."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["apportion", "assign", "check_lists", "class_share_error", "stratify"]

_REST = "train"
_ROUNDS = 20
_PARTNERS = 512  # groups that each group is offered to trade places with, in each split, at most


def check_lists(known: set[str], splits: Mapping[str, float | tuple[str, ...]]) -> None:
    """Refuse lists that name a group that is not there, or one group twice.

    Raises:
        SettingsError: As said; the message names the split and the group.

    Example:
        >>> check_lists({"a", "b"}, {"val": ("a",), "test": 0.5})
    """
    seen: dict[str, str] = {}
    for split, members in splits.items():
        for group in members if isinstance(members, tuple) else ():
            if group not in known:
                shown = ", ".join(sorted(known)[:10]) + (" ..." if len(known) > 10 else "")
                raise SettingsError(f"data.splits.{split}: there is no group {group!r}; known are {shown}")
            if group in seen:
                raise SettingsError(f"data.splits: group {group!r} is listed twice, in {seen[group]} and in {split}")
            seen[group] = split


def assign(
    groups: Sequence[str],
    splits: Mapping[str, float | tuple[str, ...]],
    seed: int,
    settled: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """The split of each group.

    Lists come first. The shares divide the groups that are in no list, after a shuffle that depends on the names of
    these groups and on `seed` only; a share above 0 gets at least one group while there are enough; the rest is `train`.

    Args:
        groups: Names, sorted.
        splits: A list of groups, or a share from 0 to 1, by split.
        seed: Another seed, another shuffle.
        settled: Groups whose split is known already: from a table, or from a store that grows.

    Example:
        >>> assign(["a", "b", "c"], {"test": ("b",), "val": 0.5}, seed=0, settled={"a": "val"})
        {'a': 'val', 'b': 'test', 'c': 'val'}
    """
    lists = {split: members for split, members in splits.items() if isinstance(members, tuple)}
    assigned = {group: split for split, members in lists.items() for group in members}
    assigned = {**{group: split for group, split in (settled or {}).items() if group in set(groups)}, **assigned}
    shares = {split: float(share) for split, share in splits.items() if not isinstance(share, tuple)}
    shares[_REST] = shares.get(_REST, 0.0) + max(0.0, 1.0 - sum(shares.values()))
    free = [group for group in groups if group not in assigned]
    # Random.random() is the one method whose numbers are promised to stay the same in every Python.
    numbers = random.Random(seed)
    shuffled = [group for _, group in sorted((numbers.random(), group) for group in free)]
    start = 0
    for split, count in apportion(shares, len(free)).items():
        assigned.update(dict.fromkeys(shuffled[start : start + count], split))
        start += count
    return assigned


def apportion(shares: Mapping[str, float], total: int) -> dict[str, int]:
    """Whole numbers that add up to `total`, as near to the shares as can be, none 0 where its share is not.

    Example:
        >>> apportion({"test": 0.3, "train": 0.7}, 5)
        {'test': 2, 'train': 3}
    """
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


def class_share_error(sums: NDArray[np.int64]) -> float:
    """How far the class shares of the splits are from those of the whole: 0 where they are equal.

    The mean over splits and classes of |share in the split - share in the whole| / share in the whole, so that a rare
    class counts as much as a common one. A split without labelled pixels is off by 1 in each class.

    Args:
        sums: (split, class) int64 pixels of each class in each split.

    Example:
        >>> class_share_error(np.array([[90, 10], [9, 1]])), class_share_error(np.array([[100, 0], [50, 50]]))
        (0.0, 0.6666666666666666)
    """
    return float(_errors(np.asarray(sums, dtype=np.float64), _whole(sums)).mean()) if len(sums) else 0.0


def stratify(
    assigned: Mapping[str, str], counts: Mapping[str, NDArray[np.int64]], fixed: frozenset[str] = frozenset()
) -> dict[str, str]:
    """Trade groups between splits until the class shares of each are as near to the whole's as trading can bring them.

    Two groups trade places where that makes `class_share_error` smaller, the best partner first, until no trade helps
    (or 20 rounds). Each split keeps its number of groups, and the error is never larger than it was.

    Args:
        assigned: The split of each group, from `assign`.
        counts: (class,) int64 pixels of each class, by group.
        fixed: Groups that stay where they are.

    Returns:
        The split of each group.

    Example:
        >>> counts = {"a": np.array([9, 1]), "b": np.array([1, 9]), "c": np.array([9, 1]), "d": np.array([1, 9])}
        >>> stratify({"a": "val", "b": "train", "c": "val", "d": "train"}, counts)
        {'a': 'train', 'b': 'val', 'c': 'val', 'd': 'train'}
    """
    names = list(assigned)
    splits = sorted(set(assigned.values()))
    if len(splits) < 2:
        return dict(assigned)
    table = np.array([counts[name] for name in names], dtype=np.float64)
    place = np.array([splits.index(assigned[name]) for name in names])
    free = np.array([name not in fixed for name in names])
    sums = np.array([table[place == index].sum(axis=0) for index in range(len(splits))])
    whole = _whole(sums)
    for _ in range(_ROUNDS):
        if not _trade(table, place, free, sums, whole):
            break
    return {name: splits[index] for name, index in zip(names, place, strict=True)}


def _trade(
    table: NDArray[np.float64],
    place: NDArray[np.int64],
    free: NDArray[np.bool_],
    sums: NDArray[np.float64],
    whole: NDArray[np.float64],
) -> bool:
    """One round: each group trades with its best partner, if that helps. Changes `place` and `sums`."""
    traded = False
    for own in np.flatnonzero(free):
        here = place[own]
        best, partner = -1e-9, -1
        for there in range(len(sums)):
            others: Any = np.flatnonzero(free & (place == there))[:_PARTNERS] if there != here else []
            if not len(others):
                continue
            moved = table[others] - table[own]
            before = _errors(sums[[here, there]], whole).sum()
            after = _errors(sums[here] + moved, whole).sum(axis=1) + _errors(sums[there] - moved, whole).sum(axis=1)
            choice = int(np.argmin(after))
            if after[choice] - before < best:
                best, partner = float(after[choice] - before), int(others[choice])
        if partner >= 0:
            there = place[partner]
            sums[here] += table[partner] - table[own]
            sums[there] -= table[partner] - table[own]
            place[own], place[partner] = there, here
            traded = True
    return traded


def _whole(sums: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
    pixels = np.asarray(sums, dtype=np.float64).sum(axis=0)
    return np.asarray(pixels / max(1.0, float(pixels.sum())), dtype=np.float64)


def _errors(sums: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Relative error of each class share, (split, class); classes that are nowhere have none."""
    shares = sums / np.maximum(1.0, sums.sum(axis=-1, keepdims=True))
    error = np.abs(shares - whole) / np.where(whole > 0, whole, 1.0)
    return np.asarray(np.where(whole > 0, error, 0.0), dtype=np.float64)
