"""The report job: prints where the HTML page is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from microseg_ray.errors import MicrosegError, StoreError
from microseg_ray.jobs.console import DONE, StartRay, console, print_accounts

if TYPE_CHECKING:
    from microseg_ray.settings import ReportSettings

__all__ = ["report"]


def report(settings: ReportSettings, _start: StartRay) -> int:
    """Write the HTML page of a run."""
    from microseg_ray.accounts import ACCOUNTS_FILE, read_accounts
    from microseg_ray.report import Shown, report_run

    try:
        page = report_run(settings.run, shown=Shown(settings.panels, settings.places, settings.thumbnails))
    except MicrosegError:
        raise
    except (ValueError, KeyError) as error:
        # Arrow's errors are ValueErrors; a table of other columns gives KeyErrors.
        text = " ".join(str(error).split())[:200]
        raise StoreError(
            f"{settings.run}: a table of the run is damaged ({type(error).__name__}: {text}); run measure again, which "
            "writes all tables anew"
        ) from error
    console.print(escape(str(page)))
    print_accounts(read_accounts(page.with_name(ACCOUNTS_FILE)))
    return DONE
