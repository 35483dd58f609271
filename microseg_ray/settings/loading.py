"""Where settings come from: YAML file, environment, command line; and what is wrong with them, by key."""

from __future__ import annotations

import os
import reprlib
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, cast, get_args

import yaml
from pydantic import AliasChoices, BaseModel, TypeAdapter, ValidationError, create_model
from pydantic_settings import CliApp, SettingsConfigDict
from pydantic_settings import SettingsError as PydanticSettingsError

from microseg_ray.errors import SettingsError
from microseg_ray.settings.base import JobSettings
from microseg_ray.settings.jobs import JOBS
from microseg_ray.settings.values import DataSettings, Frozen

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic.fields import FieldInfo

__all__ = ["load_settings", "read_config", "settings_from"]

MAX_CONFIG_BYTES = 1 << 20
SHARED_SECTIONS = ("classes", "data", "ray", "source")
SettingsT = TypeVar("SettingsT", bound=JobSettings)


def load_settings(cls: type[SettingsT], arguments: list[str] | None = None, config: Path | None = None) -> SettingsT:
    """Settings of one job from YAML, environment and command line.

    Args:
        cls: The job's settings model.
        arguments: Command line after the job's name and the config, `["--epochs", "3"]`.
        config: YAML file; none is fine.

    Returns:
        The validated, frozen settings.

    Raises:
        SettingsError: Unknown key, wrong value, unreadable YAML; the message names file and key.

    Example:
        >>> from microseg_ray.settings import MeasureSettings
        >>> load_settings(MeasureSettings, ["--run", "runs/a"]).run
        'runs/a'
        >>> load_settings(MeasureSettings, ["--rum", "runs/a"])
        Traceback (most recent call last):
            ...
        microseg_ray.errors.SettingsError: --rum: no such option of `measure`; did you mean --run?
    """
    prefix = f"MICROSEG_{cls.job.upper()}__"
    _refuse_unknown_environment(cls, prefix)
    _refuse_unknown_options(cls, arguments or [])
    values = read_config(config, cls) if config is not None else {}
    bound = type(
        cls.__name__,
        (cls,),
        {
            "_file_values": values,
            "__doc__": cls.__doc__,
            "__module__": cls.__module__,
            "__annotations__": {"_file_values": ClassVar[dict[str, Any]]},
            "model_config": SettingsConfigDict(env_prefix=prefix, cli_prog_name=f"microseg {cls.job}"),
        },
    )
    loaded: Any
    try:
        loaded = CliApp.run(bound, cli_args=_plain_flags(cls, arguments or []), cli_exit_on_error=False)
    except ValidationError as error:
        raise SettingsError(_explain(error, cls, config)) from error
    except PydanticSettingsError as error:
        raise SettingsError(f"{cls.job}: {error}") from error
    except SystemExit as error:
        if error.code:
            raise SettingsError(
                f"{cls.job}: the command line could not be read; see microseg {cls.job} --help"
            ) from error
        raise
    values = {name: getattr(loaded, name) for name in cls.model_fields}
    return cast("SettingsT", cls.model_construct(_fields_set=loaded.model_fields_set, **values))


def settings_from(cls: type[SettingsT], values: Mapping[str, Any]) -> SettingsT:
    """Settings from plain values alone, as `resolved` gave them; no file, environment or command line reaches in.

    Args:
        cls: The job's settings model.
        values: By field; what is left out has its default.

    Raises:
        SettingsError: An unknown field or a wrong value.

    Example:
        >>> from microseg_ray.settings import MeasureSettings
        >>> settings_from(MeasureSettings, {"run": "runs/a"}).run
        'runs/a'
    """
    frozen = TypeAdapter(create_model(cls.__name__, __base__=_PlainBase, **_fields(cls)))
    try:
        checked = frozen.validate_python(dict(values))
    except ValidationError as error:
        raise SettingsError(_explain(error, cls, None)) from error
    return cast("SettingsT", cls.model_construct(**{name: getattr(checked, name) for name in cls.model_fields}))


def _fields(cls: type[BaseModel]) -> dict[str, Any]:
    return {name: (info.annotation, info) for name, info in cls.model_fields.items()}


class _PlainBase(Frozen):
    """Base of what `settings_from` checks with: the fields of a job without its sources."""


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
    if cls.job == "plan":
        # `plan` foretells what `segment` would do with the same file.
        own = _merged(_section(document, "segment", path), own)
    if cls.job == "tune":
        # What is not searched is as `train` with the same file would have it; but a trial is one process.
        train = {name: value for name, value in _section(document, "train", path).items() if name != "workers"}
        own = _merged({**train, "output": None, "data": shared}, own)
    strange = sorted(set(shared) - set(DataSettings.model_fields))
    if strange:
        raise SettingsError(f"{path}: data.{strange[0]}: no such key; known are {', '.join(DataSettings.model_fields)}")
    offered: dict[str, Any] = {
        **shared,
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
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=yaml.SafeLoader)):
            raise SettingsError(f"{path}: YAML aliases (*name) are not allowed in a config; write the values out")
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
    """YAML itself takes the last of two equal keys without a word, and reads `no:` and `1:` as no words at all."""
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
                raise SettingsError(f"{where}: the key {key.value!r} stands here for the second time; keep one of them")
            seen.add(key.value)
            _refuse_odd_keys(value, path)


def _refuse_unknown_environment(cls: type[JobSettings], prefix: str) -> None:
    jobs = tuple(f"MICROSEG_{job.upper()}__" for job in (*JOBS, "tune"))
    example = next(iter(cls.model_fields)).upper()
    for name in sorted(os.environ):
        if name.upper().startswith("MICROSEG_") and not name.upper().startswith(jobs):
            raise SettingsError(
                f"environment variable {name}: names no job; write MICROSEG_JOB__KEY, as in {prefix}{example}"
            )
        if name.upper().startswith(prefix):
            first = name[len(prefix) :].split("__")[0].lower()
            if first not in cls.model_fields:
                raise SettingsError(f"environment variable {name}: `{cls.job}` has no setting {first!r}")


def _refuse_unknown_options(cls: type[JobSettings], arguments: list[str]) -> None:
    """Name an unknown option by itself; argparse would print a page of usage instead."""
    known = {*_option_names(cls), *_aliases(cls)}
    flags = _flags(cls) | _aliases(cls)
    for argument in arguments:
        if not argument.startswith("--") or argument == "--":
            continue
        name = argument[2:].split("=")[0]
        if name == "help" or name in known or name.removeprefix("no-") in flags:
            continue
        from difflib import get_close_matches

        near = get_close_matches(name, known, n=1)
        hint = f"did you mean --{near[0]}?" if near else f"see microseg {cls.job} --help"
        raise SettingsError(f"--{name}: no such option of `{cls.job}`; {hint}")


def _plain_flags(cls: type[JobSettings], arguments: list[str]) -> list[str]:
    """`--augment false` as `--no-augment`, the only form that argparse takes."""
    flags = _flags(cls)
    plain: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument.startswith("--no-") and name.removeprefix("no-") in _switches(cls):
            plain.append(f"--{name.removeprefix('no-')}=false")
            continue
        if not argument.startswith("--") or name not in flags:
            plain.append(argument)
            continue
        if not equals and rest and rest[0].lower() in {"true", "false"}:
            value, equals = rest.pop(0), "="
        if equals and value.lower() not in {"true", "false"}:
            raise SettingsError(f"{cls.job}.{name}: must be true or false (got {value!r})")
        if name in _switches(cls):
            plain.append(f"--{name}={value.lower() or 'true'}")
        else:
            plain.append(f"--no-{name}" if value.lower() == "false" else f"--{name}")
    return plain


def _flags(cls: type[JobSettings]) -> set[str]:
    own = {name for name, info in cls.model_fields.items() if info.annotation is bool}
    return own | _switches(cls) | _section_flags(cls)


def _section_flags(cls: type[BaseModel]) -> set[str]:
    """Those of the sections, `model.image_pooling`."""
    sections = {name: _nested(info) for name, info in cls.model_fields.items() if name not in _switches(cls)}
    return {
        f"{name}.{key}"
        for name, section in sections.items()
        if section is not None
        for key, info in section.model_fields.items()
        if info.annotation is bool or set(get_args(info.annotation)) == {bool, type(None)}
    }


def _switches(cls: type[BaseModel]) -> set[str]:
    """Fields that are true, false or a section: argparse takes `--augment=false`, but neither `--augment` nor `--no-augment`."""
    return {
        name
        for name, info in cls.model_fields.items()
        if bool in get_args(info.annotation) and _nested(info) is not None
    }


def _aliases(cls: type[BaseModel]) -> set[str]:
    """Options that are spelled otherwise than their field, which the models of pydantic would not let be so named."""
    aliases = (info.validation_alias for info in cls.model_fields.values())
    return {str(name) for alias in aliases if isinstance(alias, AliasChoices) for name in alias.choices}


def _option_names(model: type[BaseModel], prefix: str = "") -> list[str]:
    names: list[str] = []
    for name, info in model.model_fields.items():
        names.append(prefix + name)
        nested = _nested(info)
        if nested:
            names += _option_names(nested, f"{prefix}{name}.")
    return names


def _nested(info: FieldInfo) -> type[BaseModel] | None:
    """The model that a field holds, if it holds one."""
    parts = (info.annotation, *get_args(info.annotation))
    return next((part for part in parts if isinstance(part, type) and issubclass(part, BaseModel)), None)


def _known(cls: type[BaseModel], keys: tuple[int | str, ...]) -> str:
    """The fields beside a key that is none of them."""
    model: type[BaseModel] | None = cls
    for key in keys[:-1]:
        if model is not None and key in model.model_fields:
            model = _nested(model.model_fields[str(key)])
    return ", ".join((model or cls).model_fields)


def _explain(error: ValidationError, cls: type[JobSettings], config: Path | None) -> str:
    """One line a problem, each with its key; pydantic's own text has the class name and a URL instead."""
    lines: list[str] = []
    for problem in error.errors(include_url=False):
        key = ".".join(str(part) for part in problem["loc"]) or "settings"
        message = problem["msg"].removeprefix("Value error, ")
        match problem["type"]:
            case "extra_forbidden":
                where = f"{config}: " if config is not None else ""
                lines.append(f"{where}{cls.job}.{key}: no such setting; known are {_known(cls, problem['loc'])}")
            case "missing":
                lines.append(f"{cls.job}.{key}: missing; give --{key} or put `{key}:` under `{cls.job}:` in the config")
            case _:
                shown = "" if key == "settings" else f" (got {reprlib.repr(problem.get('input'))})"
                lines.append(f"{cls.job}.{key}: {message}{shown}")
    return "\n".join(lines)
