"""Fixtures of tiles."""

from __future__ import annotations

import pytest

from microseg_ray.on_ray.rows import tile
from tests.tiles.jobs import settings


@pytest.fixture(scope="module")
def tiled(pairs, tmp_path_factory):
    return tile(settings(pairs, tmp_path_factory.mktemp("tiled") / "store"))
