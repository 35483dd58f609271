"""What is wrong with settings, one line a problem, each with its key."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING

from microseg_ray.settings.fields import known_beside

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import ValidationError

    from microseg_ray.settings.base import JobSettings

__all__ = ["explain"]


def explain(error: ValidationError, cls: type[JobSettings], config: Path | None) -> str:
    """The text of pydantic's error without class names and URLs.

    Args:
        error: What pydantic raised.
        cls: The job's settings.
        config: The YAML file that was read, if one was.
    """
    lines: list[str] = []
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"]) or "settings"
        message = problem["msg"].removeprefix("Value error, ")
        match problem["type"]:
            case "extra_forbidden":
                where = f"{config}: " if config is not None else ""
                lines.append(f"{where}{cls.job}.{key}: no such setting; known are {known_beside(cls, problem['loc'])}")
            case "missing":
                lines.append(f"{cls.job}.{key}: missing; give --{key} or put `{key}:` under `{cls.job}:` in the config")
            case _:
                shown = "" if key == "settings" else f" (got {reprlib.repr(problem.get('input'))})"
                lines.append(f"{cls.job}.{key}: {message}{shown}")
    return "\n".join(lines)
