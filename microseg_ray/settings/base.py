"""The two bases of all settings: a section, and the settings of one job. Both are plain pydantic models.

A model reads nothing but the values that it is given. `settings.loading` alone reads files, environment and command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, model_validator

from microseg_ray.files.objects import is_object_url

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        in_object_stores: Fields that may be an address of an object store, those of sections as `section.field`.
    """

    job: ClassVar[str] = ""
    positional: ClassVar[str | None] = None
    leading: ClassVar[str | None] = None
    inherits: ClassVar[str | None] = None
    not_inherited: ClassVar[tuple[str, ...]] = ()
    in_object_stores: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="after")
    def _only_known_addresses(self) -> Self:
        """A job that takes an address for a path would write into a folder called `s3:`."""
        for name, value in _texts("", self):
            if is_object_url(value) and name not in self.in_object_stores:
                beside = ", ".join(sorted(self.in_object_stores))
                also = f"; what {self.job} takes from object stores: {beside}" if beside else ""
                raise ValueError(
                    f"{name}: {self.job} takes a folder or file here (on a cluster: that all nodes see), not an address "
                    f"of an object store; copy it with a tool of the store (such as `aws s3 sync`) first or afterwards{also}"
                )
        return self

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


def _texts(prefix: str, value: object) -> Iterator[tuple[str, str]]:
    """All texts in settings, by the dotted name of their field."""
    match value:
        case str():
            yield prefix, value
        case BaseModel():
            for name in type(value).model_fields:
                yield from _texts(f"{prefix}.{name}" if prefix else name, getattr(value, name))
        case tuple() | list() | frozenset():
            for each in value:
                yield from _texts(prefix, each)
        case dict():
            for each in value.values():
                yield from _texts(prefix, each)


def unwrap_single(value: Any) -> Any:
    """Unwrap a list of one: the command line gives `--size 400` as `[400]` where a field may also be a list.

    Example:
        >>> unwrap_single([400]), unwrap_single([400, 300])
        (400, [400, 300])
    """
    single = isinstance(value, list) and len(value) == 1 and isinstance(value[0], str | int)
    return value[0] if single else value
