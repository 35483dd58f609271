"""Fixtures that several test files share."""

from __future__ import annotations

from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The real micrographs beside the repository; read only."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real micrographs are not here ({folder})")
    return folder


# --- Ray: the session's cluster fixture belongs here ---------------------------------------------------------------
