"""Which objects of masks are measured, and what of them is written."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from microseg_ray.settings.base import Frozen

__all__ = ["ObjectSettings"]


def _number(value: Any) -> Any:
    """The command line and the environment give text."""
    return int(value) if isinstance(value, str) and value.strip().isdigit() else value


class ObjectSettings(Frozen):
    """Objects: connected components of each class."""

    measure: bool = Field(
        default=True, description="objects.csv, objects.parquet, object_sizes.csv, object_classes.csv"
    )
    connectivity: Annotated[Literal[4, 8], BeforeValidator(_number)] = Field(
        default=8, description="pixels of an object are connected by edges (4), or by edges and corners (8)"
    )
    classes: tuple[str, ...] | None = Field(default=None, description="classes whose objects are measured; null: all")
    min_pixels: int = Field(default=1, ge=1, description="smaller objects are left out of all tables and counted")
    intensity: bool = Field(
        default=True,
        description="mean and SD of the micrograph's intensity under each object; reads the micrographs again",
    )
    labels: bool = Field(
        default=False, description="objects/NAME.zarr: the number of the object of each pixel, as OME-Zarr"
    )
