"""The command line of a job, checked and rewritten into the forms that argparse and pydantic-settings accept."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from microseg_ray.errors import SettingsError
from microseg_ray.settings.fields import aliases, flags, option_names, path_lists, switches

if TYPE_CHECKING:
    from microseg_ray.settings.base import JobSettings

__all__ = ["Plain", "plain_arguments", "refuse_unknown_options"]


def refuse_unknown_options(cls: type[JobSettings], arguments: list[str]) -> None:
    """Name an unknown option by itself; argparse would print a page of usage instead.

    Raises:
        SettingsError: An option that the job does not have.
    """
    known = {*option_names(cls), *aliases(cls)}
    boolean = flags(cls) | aliases(cls)
    for argument in arguments:
        if argument == "--":
            return
        if not argument.startswith("--"):
            continue
        name = argument[2:].split("=")[0]
        if name == "help" or name in known or name.removeprefix("no-") in boolean:
            continue
        from difflib import get_close_matches

        near = get_close_matches(name, known, n=1)
        hint = f"did you mean --{near[0]}?" if near else f"see microseg {cls.job} --help"
        raise SettingsError(f"--{name}: no such option of `{cls.job}`; {hint}")


class Plain(NamedTuple):
    """A command line, divided.

    Attributes:
        arguments: For argparse.
        positional: Values without a name.
        paths: Values of the options that name one file or several, by option.
    """

    arguments: list[str]
    positional: tuple[str, ...]
    paths: dict[str, tuple[str, ...]]


def plain_arguments(cls: type[JobSettings], arguments: list[str]) -> Plain:
    """The arguments in the forms that argparse accepts.

    `--augment false` becomes `--no-augment`. Arguments without a name come first, each as its number: pydantic-settings
    splits list values at commas and strips quotes, and both may be part of a file's name. So do the
    values of options that name one file or several (`--checkpoint a --checkpoint b`).

    Args:
        cls: The job's settings.
        arguments: As the user wrote them.

    Raises:
        SettingsError: A flag with a value that is neither true nor false.
    """
    boolean, either, paths = flags(cls), switches(cls), path_lists(cls)
    plain: list[str] = []
    positional: list[str] = []
    named: dict[str, tuple[str, ...]] = {}
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name, equals, value = argument.removeprefix("--").partition("=")
        if argument == "--" and cls.positional:
            positional += rest
            break
        if argument.startswith("--no-") and name.removeprefix("no-") in either:
            plain.append(f"--{name.removeprefix('no-')}=false")
        elif argument.startswith("--") and name in boolean:
            if not equals and rest and rest[0].lower() in {"true", "false"}:
                value, equals = rest.pop(0), "="
            plain.append(_flag(cls, name, value if equals else None, explicit=name in either))
        elif argument.startswith("--") and name in paths and (equals or rest):
            named[name] = (*named.get(name, ()), value if equals else rest.pop(0))
            plain.append(f"--{name}=path{len(named[name])}")
        elif cls.positional and not argument.startswith("-"):
            positional.append(argument)
        else:
            plain.append(argument)
            # The value of an option is passed on as it is, whatever it looks like.
            if _takes_a_value(cls, argument) and rest:
                plain.append(rest.pop(0))
    return Plain([*map(str, range(len(positional))), *plain], tuple(positional), named)


def _takes_a_value(cls: type[JobSettings], argument: str) -> bool:
    name = argument.removeprefix("--")
    return argument.startswith("--") and "=" not in argument and name in option_names(cls)


def _flag(cls: type[JobSettings], name: str, value: str | None, *, explicit: bool) -> str:
    if value is not None and value.lower() not in {"true", "false"}:
        raise SettingsError(f"{cls.job}.{name}: must be true or false (got {value!r})")
    if explicit:
        return f"--{name}={(value or 'true').lower()}"
    return f"--no-{name}" if value is not None and value.lower() == "false" else f"--{name}"
