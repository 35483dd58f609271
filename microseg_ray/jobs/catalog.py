"""The catalog job: prints what is in each split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from microseg_ray.accounts import ACCOUNTS_FILE, write_accounts
from microseg_ray.errors import InputError, SettingsError
from microseg_ray.jobs.console import StartRay, console, quarantine
from microseg_ray.outputs import Kind, claim, settle

if TYPE_CHECKING:
    from microseg_ray.catalog import CatalogRow
    from microseg_ray.quarantine import Failure
    from microseg_ray.settings import CatalogSettings

__all__ = ["catalog"]


def catalog(settings: CatalogSettings, _start: StartRay) -> int:
    """Write the table of micrographs and say what is in each split."""
    from microseg_ray.catalog import build_catalog, rows_of_lists, write_catalog
    from microseg_ray.quarantine import write_failures

    output = Path(settings.output).absolute()
    if output.exists() and not settings.overwrite:
        raise SettingsError(f"catalog.output: {output} exists; give another name, or --overwrite")
    listed = output.with_name(f"{output.stem}_failures.csv")
    accounting = output.with_name(f"{output.stem}_{ACCOUNTS_FILE}")
    claim(output.parent, "catalog", dict.fromkeys((output.name, listed.name, accounting.name), Kind.FILE))
    found = rows_of_lists(settings.data, settings.lists) if settings.lists else build_catalog(settings.data)
    rows, failures = found.rows, found.failures
    sizes, unread = _pixel_sizes(rows, settings)
    failures += unread
    readable = [row for row in rows if row.name in sizes]
    write_catalog(output, readable, sizes)
    _print_splits(readable)
    unknown = sum(size is None and row.pixel_size_um is None for row in readable for size, _ in [sizes[row.name]])
    console.print(f"{len(readable)} micrographs in {escape(str(output))}, {unknown} of them without a pixel size")
    if failures:
        write_failures(listed, failures)
    accounts = found.accounts(readable, failures)
    write_accounts(accounting, accounts)
    settle(output.parent, "catalog")
    return quarantine(failures, listed, accounts)


def _pixel_sizes(
    rows: list[CatalogRow], settings: CatalogSettings
) -> tuple[dict[str, tuple[tuple[float, float] | None, str]], list[Failure]]:
    from microseg_ray.quarantine import Failure as Failed
    from microseg_ray.sources import open_micrograph

    sizes: dict[str, tuple[tuple[float, float] | None, str]] = {}
    failures = []
    for row in rows:
        try:
            with open_micrograph(row.image, settings.source) as micrograph:
                sizes[row.name] = micrograph.info.pixel_size_um, micrograph.info.pixel_size_source
        except InputError as error:
            failures.append(Failed(row.name, "open", str(error).removeprefix(f"{row.image}: ")))
    return sizes, failures


def _print_splits(rows: list[CatalogRow]) -> None:
    table = Table("split", "micrographs", "groups")
    for split in sorted({row.split for row in rows}):
        own = [row for row in rows if row.split == split]
        table.add_row(split, str(len(own)), str(len({row.group for row in own})))
    console.print(table)
