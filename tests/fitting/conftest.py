"""What several tests of fits share."""

from __future__ import annotations

import pytest

from microseg_ray.settings import TileSettings
from microseg_ray.tiles.make import tile


@pytest.fixture(scope="module")
def tiles(pairs, tmp_path_factory):
    """A small store of tiles without a validation split."""
    output = tmp_path_factory.mktemp("fit") / "tiles"
    chosen = {"images": f"{pairs}/images", "masks": f"{pairs}/masks", "classes": ["matrix", "grain", "pore"]}
    tile(TileSettings(**chosen, output=str(output), tile=32, overlap=8, workers=0, group=r"^(\d+)_"))
    return output
