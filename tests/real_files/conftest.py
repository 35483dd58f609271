"""The real files that went wrong once; they are not part of the repository."""

import pytest


@pytest.fixture(scope="session")
def faults(real_data):
    folder = real_data / "faults"
    if not folder.is_dir():
        pytest.skip(f"the real files that went wrong are not here ({folder})")
    return folder
