"""Types that several settings share: numbers with their bounds, and the runtimes.

An upper bound keeps a slip of the keyboard from asking for more than any machine has.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

__all__ = ["Epochs", "GiB", "Halo", "RuntimeChoice", "Seed", "Side", "Threads", "TileArea", "TileSide", "Workers"]

# NumPy's and Optuna's older generators take no larger seed.
Seed = Annotated[int, Field(ge=0, lt=1 << 32)]
Side = Annotated[int, Field(ge=1, le=1 << 17)]
TileSide = Annotated[int, Field(ge=8, le=1 << 16)]
TileArea = Annotated[int, Field(ge=64, le=1 << 32)]
Halo = Annotated[int, Field(ge=0, le=1 << 15)]
Workers = Annotated[int, Field(ge=0, le=4096)]
Threads = Annotated[int, Field(ge=1, le=1024)]
Epochs = Annotated[int, Field(ge=1, le=1_000_000)]
GiB = Annotated[float, Field(gt=0, le=1 << 20)]
RuntimeChoice = Literal["auto", "torch", "openvino"]
