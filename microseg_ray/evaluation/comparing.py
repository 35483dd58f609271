"""Two predictions of the same micrographs: the differences of their figures, with intervals."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from microseg_ray.evaluation.metrics import ConfusionMatrix, difference_intervals, units_of
from microseg_ray.evaluation.result import Comparison
from microseg_ray.names import text
from microseg_ray.quarantine import Failure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from microseg_ray.evaluation.confusions import Confusions
    from microseg_ray.evaluation.result import Evaluation

__all__ = ["compare"]


def compare(result: Evaluation, other: Confusions) -> tuple[Comparison | None, list[Failure]]:
    """Compare what both evaluations judged.

    Micrographs are paired by name, and where the suffixes of the files differ, by the name without its suffix. Groups are
    those of this evaluation.

    Args:
        result: This evaluation.
        other: What the other one counted.

    Returns:
        The comparison, None where nothing can be compared; and micrographs that cannot be, with the reason.
    """
    failures = []
    wrong = result.pooled.withheld_is_wrong
    partners = _partners(result.per_image, other.matrices)
    ours, theirs = {}, {}
    for name, there in partners.items():
        here, found = result.per_image[name], other.matrices[there]
        if (here.counts.sum(axis=1) + here.withheld != found.counts.sum(axis=1) + found.withheld).any():
            reason = (
                f"its true mask has other pixels per class than that of {text(there)} in {other.path}; compare evaluations of "
                "the same true masks"
            )
            failures.append(Failure(name, "compare", reason))
            continue
        ours[name] = here
        theirs[name] = ConfusionMatrix(found.counts, found.withheld, withheld_is_wrong=wrong)
    if not ours:
        reason = (
            f"no micrograph of it is one that was judged here, such as {text(next(iter(result.per_image)))}; give an "
            "evaluation of the same true masks"
        )
        return None, [*failures, Failure(str(other.path), "compare", reason)]
    groups = {name: result.groups.get(name, name) for name in ours}
    figures = difference_intervals(
        units_of(ours, groups), units_of(theirs, groups), result.classes, result.resamples, result.seed
    )
    known, taken = set(partners), set(partners.values())
    comparison = Comparison(
        other=text(str(other.path)),
        micrographs=len(ours),
        only_here=tuple(name for name in result.per_image if name not in known),
        only_there=tuple(name for name in other.matrices if name not in taken),
        figures={"of": "micrographs" if figures["units"] == len(ours) else "groups", **figures},
    )
    return comparison, failures


def _partners(ours: Iterable[str], theirs: Iterable[str]) -> dict[str, str]:
    """Their name of each of our micrographs that they have.

    Example:
        >>> _partners(["a.tif", "b.png", "c.png"], ["a.png", "b.png"])
        {'a.tif': 'a.png', 'b.png': 'b.png'}
    """
    by_stem: dict[str, list[str]] = {}
    known = set(theirs)
    for name in sorted(known):
        by_stem.setdefault(_stem(name), []).append(name)
    listed = list(ours)
    found = {name: name for name in listed if name in known}
    taken = set(found)
    for name in listed:
        free = [other for other in by_stem.get(_stem(name), []) if other not in taken]
        if name not in found and len(free) == 1:
            found[name] = free[0]
            taken.add(free[0])
    return {name: found[name] for name in listed if name in found}


def _stem(name: str) -> str:
    return PurePosixPath(name).with_suffix("").as_posix()
