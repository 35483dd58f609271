"""The two bases of all settings: a section, and the settings of one job. Both are plain pydantic models.

A model reads nothing but the values that it is given. `settings.loading` alone reads files, environment and command line.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

__all__ = ["Frozen", "JobSettings", "unwrap_single"]


class Frozen(BaseModel):
    """Base of the sections: immutable, unknown keys are errors. The schema is built at the first use, not at import."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class JobSettings(Frozen):
    """Base of every job's settings.

    Attributes:
        job: The job's name.
        positional: The field that takes the arguments without a name.
        leading: The option that a first argument without a name means, unless it is a YAML file.
        inherits: Another job, whose section of a config is read below this job's own.
        not_inherited: Fields that are not taken from that section.
    """

    job: ClassVar[str] = ""
    positional: ClassVar[str | None] = None
    leading: ClassVar[str | None] = None
    inherits: ClassVar[str | None] = None
    not_inherited: ClassVar[tuple[str, ...]] = ()

    def refuse_given(self, names: tuple[str, ...], reason: str) -> None:
        """Refuse fields that these settings would not use; a field at its default is not given.

        Args:
            names: Fields.
            reason: Why they are not used.

        Raises:
            ValueError: One of the fields is not at its default.
        """
        for name in names:
            if getattr(self, name) != type(self).model_fields[name].get_default(call_default_factory=True):
                raise ValueError(f"{name}: {reason}")

    def resolved(self) -> dict[str, Any]:
        """These settings as plain JSON types, to be saved beside the output."""
        return self.model_dump(mode="json")


def unwrap_single(value: Any) -> Any:
    """Unwrap a list of one: the command line gives `--size 400` as `[400]` where a field may also be a list.

    Example:
        >>> unwrap_single([400]), unwrap_single([400, 300])
        (400, [400, 300])
    """
    single = isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | int)
    return value[0] if single else value
