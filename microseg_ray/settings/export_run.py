"""Settings of the export-run job: which formats a run is written in."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from microseg_ray.settings.base import JobSettings

__all__ = ["ExportFormat", "ExportRunSettings"]

ExportFormat = Literal["tiff", "png", "overlay", "pdf", "ome-zarr", "geojson", "coco", "cvat", "csv", "parquet"]


def _listed(value: Any) -> Any:
    """`tiff` and `tiff,geojson` for a list of one and of two."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _number(value: Any) -> Any:
    """The command line and the environment give text."""
    return int(value) if isinstance(value, str) and value.strip().isdigit() else value


class ExportRunSettings(JobSettings):
    """`export-run`: a run -> masks, overlays, objects and areas in other programs' formats.

    `tiff` is a tiled BigTIFF of class indices with its pyramid (OME metadata, for Fiji and QuPath), `png` the same as a PNG with
    the classes as its palette, `overlay` and `pdf` the micrograph in the colours of its classes with legend and scale bar,
    `ome-zarr` the micrograph as an OME-Zarr 0.5 image with its mask as labels under it, `geojson` the
    objects for QuPath, `coco` and `cvat` the objects of all micrographs for annotation tools, `csv` and `parquet` the areas.
    """

    job: ClassVar[str] = "export-run"
    in_object_stores: ClassVar[frozenset[str]] = frozenset({"run"})
    run: str = Field(description="run folder")
    output: str = Field(description="folder for tiff/NAME.ome.tif, geojson/NAME.geojson and so on")
    format: Annotated[tuple[ExportFormat, ...], BeforeValidator(_listed)] = Field(
        default=("tiff", "overlay", "geojson", "csv"), min_length=1, description="one or several formats"
    )
    image: Literal["copy", "link"] | None = Field(
        default=None,
        description="the micrograph in ome-zarr: copy (default), or link, where it is OME-Zarr 0.5 already",
    )
    png_pixels: int = Field(
        default=178_956_970,
        ge=1,
        lt=1 << 62,
        description="a larger mask is not written as PNG; the default is what Pillow opens without a change of its limit",
    )
    overlay_side: int = Field(
        default=2048, ge=16, le=16384, description="longer side of the micrograph in overlays and PDFs, in pixels"
    )
    qupath_type: Literal["annotation", "detection"] = Field(
        default="annotation", description="what objects are in QuPath: detections are faster, annotations can be edited"
    )
    connectivity: Annotated[Literal[4, 8], BeforeValidator(_number)] = Field(
        default=8, description="as objects.connectivity of measure; with another one the numbers of objects are others"
    )
    classes: tuple[str, ...] | None = Field(default=None, description="classes whose objects are written; null: all")
    min_pixels: int = Field(default=1, ge=1, description="smaller objects are left out and counted")
    overwrite: bool = Field(default=False, description="write over an export of another run")

    @model_validator(mode="after")
    def _image_has_a_format(self) -> Self:
        if self.image is not None and "ome-zarr" not in self.format:
            raise ValueError(f"image {self.image!r} needs the format ome-zarr: add it to format, or leave image out")
        return self
