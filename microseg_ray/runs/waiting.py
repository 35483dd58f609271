"""Micrographs of an archive that a run has not begun."""

from __future__ import annotations

from typing import TYPE_CHECKING

from microseg_ray.errors import MicrosegError
from microseg_ray.runs.folder import AREAS_FILE
from microseg_ray.sources import survey_inputs
from microseg_ray.sources.remote import is_url

if TYPE_CHECKING:
    from collections.abc import Collection

    from microseg_ray.runs.folder import Run

__all__ = ["not_begun"]


def not_begun(run: Run, known: Collection[str]) -> list[str]:
    """Micrographs of a run's archive without a mask and without a failure, of a run that never came to its end.

    A run that ended has all that it listed; files that came later are not its. An archive that cannot be listed, or that
    lies behind a URL, is not listed.

    Args:
        run: The run.
        known: Names of those that have a mask or a failure.
    """
    source = run.document["source"]
    if (run.folder / AREAS_FILE).exists() or not isinstance(source, str) or is_url(source):
        return []
    try:
        return sorted(name for name, _ in survey_inputs(source).entries if name not in known)
    except (MicrosegError, OSError):
        return []
