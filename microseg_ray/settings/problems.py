"""What is wrong with settings, one line a problem, each with its key."""

from __future__ import annotations

import re
import reprlib
from typing import TYPE_CHECKING

from microseg_ray.settings.fields import known_beside

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import ValidationError

    from microseg_ray.settings.base import JobSettings

__all__ = ["explain"]

# pydantic names the member of a union that failed: `tile.constrained-int`, `tile.literal['auto']`.
_MEMBER = re.compile(
    r"(int|float|bool|str|constrained-\w+|(literal|tuple|list|dict|function-\w+|lax-or-strict)\[.*\]|[A-Z]\w+)"
)


def explain(error: ValidationError, cls: type[JobSettings], config: Path | None) -> str:
    """The text of pydantic's error without class names and URLs.

    Args:
        error: What pydantic raised.
        cls: The job's settings.
        config: The YAML file that was read, if one was.
    """
    lines: dict[str, tuple[list[str], str]] = {}
    for problem in error.errors(include_url=False):
        place = tuple(part for part in problem["loc"] if not (isinstance(part, str) and _MEMBER.fullmatch(part)))
        key = ".".join(str(part) for part in place) or "settings"
        match problem["type"]:
            case "extra_forbidden":
                where = f"{config}: " if config is not None else ""
                message, shown = f"no such setting; known are {known_beside(cls, problem['loc'])}", ""
                title = f"{where}{cls.job}.{key}"
            case "missing":
                message, shown = f"missing; give --{key} or put `{key}:` under `{cls.job}:` in the config", ""
                title = f"{cls.job}.{key}"
            case _:
                message = problem["msg"].removeprefix("Value error, ")
                shown = "" if key == "settings" else f" (got {reprlib.repr(problem.get('input'))})"
                title = f"{cls.job}.{key}"
        messages, _ = lines.setdefault(title, ([], shown))
        # The members of a union fail one by one: "should be 8 or more, or 'auto'".
        messages.append(message.removeprefix("Input should be ") if messages else message)
    return "\n".join(f"{title}: {', or '.join(messages)}{shown}" for title, (messages, shown) in lines.items())
