"""Where settings come from: YAML file, environment and command line, merged field by field by pydantic-settings."""

from __future__ import annotations

import operator
import os
from typing import TYPE_CHECKING, Any, TypeVar, cast

from pydantic import Field, ValidationError

from microseg_ray.errors import SettingsError
from microseg_ray.settings.arguments import plain_arguments, refuse_unknown_options
from microseg_ray.settings.base import JobSettings
from microseg_ray.settings.config_file import read_config
from microseg_ray.settings.problems import explain
from microseg_ray.settings.registry import JOBS, module_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic_settings import BaseSettings, PydanticBaseSettingsSource

__all__ = ["load_settings", "print_options", "settings_from"]

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
    from pydantic_settings import CliApp
    from pydantic_settings import SettingsError as PydanticSettingsError

    prefix, given = _prefix(cls.job), arguments or []
    _refuse_unknown_environment(cls, prefix)
    refuse_unknown_options(cls, given)
    values = read_config(config, cls) if config is not None else {}
    plain, positional, named = plain_arguments(cls, given)
    try:
        loaded: Any = CliApp.run(_with_sources(cls, values, prefix), cli_args=plain, cli_exit_on_error=False)
    except ValidationError as error:
        raise SettingsError(explain(error, cls, config)) from error
    except PydanticSettingsError as error:
        raise SettingsError(f"{cls.job}: {error}") from error
    except SystemExit as error:
        if error.code:
            raise SettingsError(
                f"{cls.job}: the command line could not be read; see microseg {cls.job} --help"
            ) from error
        raise
    checked = {name: getattr(loaded, name) for name in cls.model_fields}
    if cls.positional is not None and positional:
        checked[cls.positional] = positional
    checked |= {name: paths if len(paths) > 1 else paths[0] for name, paths in named.items()}
    return cast("SettingsT", cls.model_construct(_fields_set=loaded.model_fields_set, **checked))


def print_options(cls: type[JobSettings]) -> None:
    """Print the options of a job."""
    from pydantic_settings import CliApp

    try:
        CliApp.run(_with_sources(cls, {}, _prefix(cls.job)), cli_args=["--help"])
    except SystemExit:
        return


def settings_from(cls: type[SettingsT], values: Mapping[str, Any]) -> SettingsT:
    """Settings from plain values, such as `resolved` returns, with the error text of `load_settings`.

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
    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        raise SettingsError(explain(error, cls, None)) from error


def _with_sources(cls: type[JobSettings], file_values: dict[str, Any], prefix: str) -> type[BaseSettings]:
    """The job's model as one of pydantic-settings: command line over environment over the YAML file's values."""
    from pydantic_settings import BaseSettings, CliPositionalArg, InitSettingsSource, SettingsConfigDict

    def customise(
        _owner: type[BaseSettings],
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG001
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG001
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # CliApp puts the command line above all of these.
        return init_settings, env_settings, InitSettingsSource(settings_cls, dict(file_values))

    config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        env_prefix=prefix,
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
        cli_avoid_json=True,
        cli_hide_none_type=True,
        cli_implicit_flags=True,
        cli_prog_name=f"microseg {cls.job}",
    )
    body: dict[str, Any] = {
        "settings_customise_sources": classmethod(customise),
        "__doc__": cls.__doc__,
        "__module__": cls.__module__,
        "model_config": config,
    }
    if cls.positional is not None:
        info = cls.model_fields[cls.positional]
        body["__annotations__"] = {cls.positional: operator.getitem(CliPositionalArg, info.annotation)}
        body[cls.positional] = Field(description=info.description)
    return type(cls.__name__, (cls, BaseSettings), body)


def _prefix(job: str) -> str:
    return f"MICROSEG_{module_name(job).upper()}__"


def _refuse_unknown_environment(cls: type[JobSettings], prefix: str) -> None:
    jobs = tuple(map(_prefix, JOBS))
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
