"""What the fields of a settings model are on the command line: flags, switches, sections, lists of paths."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

from pydantic import AliasChoices, BaseModel

from microseg_ray.settings.checkpoints import PATHS

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

__all__ = ["aliases", "flags", "known_beside", "nested_model", "option_names", "path_lists", "switches"]


def nested_model(info: FieldInfo) -> type[BaseModel] | None:
    """The model of a section; None for a field that is no section."""
    parts = (info.annotation, *get_args(info.annotation))
    return next((part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), None)


def option_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    """All options by dotted name, those of sections included.

    Example:
        >>> from microseg_ray.settings.measure import MeasureSettings
        >>> option_names(MeasureSettings)[:2]
        ['sections', 'find']
    """
    names: list[str] = []
    for name, info in model.model_fields.items():
        names.append(prefix + name)
        nested = nested_model(info)
        if nested:
            names += option_names(nested, f"{prefix}{name}.")
    return names


def flags(cls: type[BaseModel]) -> set[str]:
    """Options that are true or false, those of sections included."""
    own = {name for name, info in cls.model_fields.items() if info.annotation is bool}
    return own | switches(cls) | _section_flags(cls)


def _section_flags(cls: type[BaseModel]) -> set[str]:
    sections = {name: nested_model(info) for name, info in cls.model_fields.items() if name not in switches(cls)}
    return {
        f"{name}.{key}"
        for name, section in sections.items()
        if section is not None
        for key, info in section.model_fields.items()
        if info.annotation is bool or set(get_args(info.annotation)) == {bool, type(None)}
    }


def switches(cls: type[BaseModel]) -> set[str]:
    """Fields that are true, false or a section: argparse takes `--augment=false`, but neither `--augment` nor `--no-augment`."""
    return {
        name
        for name, info in cls.model_fields.items()
        if bool in get_args(info.annotation) and nested_model(info) is not None
    }


def aliases(cls: type[BaseModel]) -> set[str]:
    """Options whose name differs from the field's, because pydantic's models already have an attribute of that name."""
    found = (info.validation_alias for info in cls.model_fields.values())
    return {str(name) for alias in found if isinstance(alias, AliasChoices) for name in alias.choices}


def path_lists(cls: type[BaseModel]) -> set[str]:
    """Options that name one file or folder, or several."""
    return {
        name
        for name, info in cls.model_fields.items()
        if PATHS in info.metadata
        or any(PATHS in getattr(part, "__metadata__", ()) for part in get_args(info.annotation))
    }


def known_beside(cls: type[BaseModel], keys: tuple[int | str, ...]) -> str:
    """The fields of the section that an unknown key is in."""
    model: type[BaseModel] | None = cls
    for key in keys[:-1]:
        if model is not None and key in model.model_fields:
            model = nested_model(model.model_fields[str(key)])
    return ", ".join((model or cls).model_fields)
