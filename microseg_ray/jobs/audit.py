"""The audit job: prints micrographs that are in two splits at once."""

from __future__ import annotations

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from microseg_ray.accounts import ACCOUNTS_FILE, write_accounts
from microseg_ray.errors import InputError
from microseg_ray.jobs.console import DONE, QUARANTINED, STOPPED, StartRay, console, print_accounts, progress_bar
from microseg_ray.outputs import Kind, claim

if TYPE_CHECKING:
    from microseg_ray.accounts import NotTaken
    from microseg_ray.catalog import Catalog, CatalogRow, Leak, Reduced
    from microseg_ray.settings import AuditSettings

__all__ = ["audit"]

SPLITS = ("train", "val", "test")
_THREADS = 4
_SHOWN = 200


def audit(settings: AuditSettings, _start: StartRay) -> int:
    """Name the micrographs that are in two splits at once."""
    from microseg_ray.catalog import find_leaks, reduce_micrograph, write_leaks
    from microseg_ray.quarantine import Failure as Failed

    if settings.output is not None:
        output = Path(settings.output).absolute()
        accounting = output.with_name(f"{output.stem}_{ACCOUNTS_FILE}")
        claim(output.parent, "audit", dict.fromkeys((output.name, accounting.name), Kind.FILE))
    found, outside = _rows(settings)
    failures = found.failures
    rows = [row for row in found.rows if row.name not in dict(outside)]
    splits = sorted({row.split for row in rows})
    within = settings.within or len(splits) < 2
    console.print(f"{len(rows)} micrographs, splits: {escape(', '.join(splits))}")
    if len(splits) < 2:
        console.print(
            "one split leaks into no other: pairs inside it are listed (sub-folders train, val, test make splits)"
        )

    def look(row: CatalogRow) -> Reduced | str:
        try:
            return reduce_micrograph(row.image, settings.source)
        except InputError as error:
            return str(error).removeprefix(f"{row.image}: ")

    good: list[tuple[CatalogRow, Reduced]] = []
    with progress_bar() as bar, ThreadPoolExecutor(_THREADS) as pool:
        for done, (row, seen) in enumerate(zip(rows, pool.map(look, rows), strict=True), 1):
            bar.update("audit", done, len(rows))
            if isinstance(seen, str):
                failures.append(Failed(row.name, "open", seen))
            else:
                good.append((row, seen))
    leaks = find_leaks([row for row, _ in good], [seen for _, seen in good], within=within, source=settings.source)
    if settings.output is not None:
        write_leaks(settings.output, leaks)
        write_accounts(accounting, found.accounts([row for row, _ in good], failures, outside))
    across = [leak for leak in leaks if leak.first_split != leak.second_split]
    _print_leaks(leaks, across, settings.output)
    for failure in failures:
        console.print(f"[yellow]not compared:[/] {escape(failure.path)}: {escape(failure.reason)}")
    print_accounts(found.accounts([row for row, _ in good], failures, outside))
    if across:
        return STOPPED
    return QUARANTINED if failures else DONE


def _rows(settings: AuditSettings) -> tuple[Catalog, NotTaken]:
    """The micrographs, and the number that are not compared.

    Where the splits are sub-folders called train, val and test, only the files in these are compared.
    """
    from microseg_ray.catalog import build_catalog

    data = settings.data
    if not settings.stratify:
        # A micrograph without a mask can leak as well; masks are needed to find the splits that stratify makes.
        data = data.model_copy(update={"masks": None, "mask_suffix": ""})
    found = build_catalog(data)
    rows, suffix = found.rows, settings.mask_suffix
    masks = {row.name for row in rows if suffix and settings.table is None and row.image.stem.endswith(suffix)}
    left = tuple((name, "mask") for name in sorted(masks))
    rows = [row for row in rows if row.name not in masks]
    by_folder = {row.name: row.name.split("/", 1)[0] for row in rows if "/" in row.name}
    if settings.table is not None or settings.splits or not set(by_folder.values()) & set(SPLITS):
        return found, left
    inside = [replace(row, split=by_folder[row.name]) for row in rows if by_folder.get(row.name) in SPLITS]
    left += tuple((row.name, "outside train, val, test") for row in rows if by_folder.get(row.name) not in SPLITS)
    # The rows keep their places; excluded micrographs are listed by name.
    return found._replace(rows=[*inside, *(row for row in found.rows if row.name in dict(left))]), left


def _print_leaks(leaks: list[Leak], across: list[Leak], output: str | None) -> None:
    # Leaks first: what lies in one split is only a remark.
    for leak in [*across, *(leak for leak in leaks if leak not in set(across))][:_SHOWN]:
        what = "[red]leak:[/]" if leak.first_split != leak.second_split else "in one split:"
        console.print(f"{what} {escape(str(leak))}", soft_wrap=True)
    if len(leaks) > _SHOWN:
        where = f"all are in {output}" if output else "give --output for all"
        console.print(f"... and {len(leaks) - _SHOWN} more; {escape(where)}")
    kinds: dict[str, int] = defaultdict(int)
    for leak in across:
        kinds[leak.kind] += 1
    counted = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    console.print(f"[red]{len(across)} leaks[/] across splits ({counted})" if across else "no leaks across splits")
