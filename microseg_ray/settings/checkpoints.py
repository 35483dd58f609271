"""Checkpoints as a setting: the folder of one, or a list of several whose probabilities are averaged."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

from microseg_ray.settings.base import unwrap_single

__all__ = ["PATHS", "CheckpointFolders"]

PATHS = "paths"
"""Marks a field of paths: on the command line values are taken as they are, commas and quotes included."""


def _several(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if not value or not all(value):
        raise ValueError("a checkpoint folder has no name; give a folder that the train job wrote, such as OUTPUT/best")
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def _listed(value: Any) -> Any:
    return tuple(map(str, value)) if isinstance(value, list | tuple) and value else unwrap_single(value)


CheckpointFolders = Annotated[str | tuple[str, ...], BeforeValidator(_listed), AfterValidator(_several), PATHS]
