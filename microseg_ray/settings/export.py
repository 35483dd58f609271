"""Settings of the job that hands a model on: export."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from microseg_ray.settings.base import JobSettings

__all__ = ["ExportSettings"]


class ExportSettings(JobSettings):
    """`export`: checkpoint -> one file for other programs, ONNX or torch.export."""

    job: ClassVar[str] = "export"
    in_object_stores: ClassVar[frozenset[str]] = frozenset({"checkpoint"})
    checkpoint: str = Field(description="checkpoint folder of the train job")
    output: str = Field(description="file to write, such as model.onnx or model.pt2; a .json is written beside it")
    format: Literal["onnx", "torch"] = Field(default="onnx", description="torch: a torch.export program")
    dtype: Literal["uint8", "uint16", "float32"] = Field(
        default="uint8",
        description="of the micrographs' pixels, which the exported model takes as they are in the file",
    )
    overwrite: bool = False
