"""What settings refuse."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from microseg_ray.errors import SettingsError
from microseg_ray.settings import (
    JobSettings,
    load_settings,
)

if TYPE_CHECKING:
    from pathlib import Path


TILE = ["--output", "o"]
TRAIN = ["--tiles", "t", "--output", "o"]
SEGMENT = ["--archive", "a", "--checkpoint", "c", "--output", "o"]


def refused(cls: type[JobSettings], arguments: list[str], path: Path | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(cls, arguments, path)
    return str(caught.value)
