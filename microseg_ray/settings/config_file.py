"""The values that a YAML file holds for one job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from microseg_ray.errors import SettingsError
from microseg_ray.settings.data import DataSettings
from microseg_ray.settings.registry import JOBS

if TYPE_CHECKING:
    from pathlib import Path

    from microseg_ray.settings.base import JobSettings

__all__ = ["read_config"]

MAX_CONFIG_BYTES = 1 << 20
MAX_DEPTH = 50
SHARED_SECTIONS = ("classes", "data", "ray", "source")


def read_config(path: Path, cls: type[JobSettings]) -> dict[str, Any]:
    """The values that a YAML file holds for one job: its own section over the shared ones.

    Raises:
        SettingsError: The file is missing, too large, not a mapping, or has an unknown section or shared key.
    """
    document = _read_yaml(path)
    unknown = sorted(set(document) - set(JOBS) - set(SHARED_SECTIONS))
    if unknown:
        raise SettingsError(f"{path}: unknown section {unknown[0]!r}; known are {', '.join([*SHARED_SECTIONS, *JOBS])}")
    shared, own = (_section(document, name, path) for name in ("data", cls.job))
    if cls.inherits is not None:
        below = _section(document, cls.inherits, path)
        own = _merged({name: value for name, value in below.items() if name not in cls.not_inherited}, own)
    strange = sorted(set(shared) - set(DataSettings.model_fields))
    if strange:
        raise SettingsError(f"{path}: data.{strange[0]}: no such key; known are {', '.join(DataSettings.model_fields)}")
    offered: dict[str, Any] = {
        **shared,
        **({"data": shared} if shared else {}),
        **{name: document[name] for name in ("classes", "ray", "source") if name in document},
    }
    return _merged({name: value for name, value in offered.items() if name in cls.model_fields}, own)


def _section(document: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    section = document.get(name)
    if section is None:
        return {}
    if not isinstance(section, dict):
        raise SettingsError(f"{path}: {name}: must hold keys, one a line, not {section!r}")
    return section


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Field by field, as pydantic-settings merges environment and command line."""
    merged = below | above
    for name in set(below) & set(above):
        if isinstance(below[name], dict) and isinstance(above[name], dict):
            merged[name] = _merged(below[name], above[name])
    return merged


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise SettingsError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes; this is no config file")
        text = path.read_text(encoding="utf-8")
        # Aliases can blow a kilobyte up to gigabytes; no config needs them.
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):
                raise SettingsError(f"{path}: YAML aliases (*name) are not allowed in a config; write the values out")
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            # The time that YAML takes grows with the square of the depth.
            if depth > MAX_DEPTH:
                where = f"line {event.start_mark.line + 1}: " if event.start_mark else ""
                raise SettingsError(f"{path}: {where}nested deeper than {MAX_DEPTH} levels; this is no config file")
        _refuse_odd_keys(yaml.compose(text, Loader=yaml.SafeLoader), path)
        document = yaml.safe_load(text)
    except OSError as error:
        raise SettingsError(f"{path}: the config cannot be read ({error.strerror}); check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{path}: not valid YAML: {error}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SettingsError(f"{path}: a config holds sections such as `train:`, not {type(document).__name__}")
    return document


def _refuse_odd_keys(node: yaml.Node | None, path: Path) -> None:
    """Refuse what YAML itself accepts: two equal keys (the last one wins), and keys that are no text, as `no:` and `1:`."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _refuse_odd_keys(item, path)
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            where = f"{path}: line {key.start_mark.line + 1}"
            if key.tag != "tag:yaml.org,2002:str":
                raise SettingsError(f"{where}: the key {key.value!r} is not read as text; put it in quotes")
            if key.value in seen:
                raise SettingsError(f"{where}: the key {key.value!r} is here for the second time; keep one of them")
            seen.add(key.value)
            _refuse_odd_keys(value, path)
