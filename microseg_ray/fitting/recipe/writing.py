"""The config of a recipe: YAML that `train` takes, with the reason beside each value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from microseg_ray.fitting.recipe.rules import GIVEN, Choice

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["config_text", "flat", "nested"]


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Sections as dotted names.

    Example:
        >>> flat({"batch": 8, "optimizer": {"name": "sgd"}, "augment": False})
        {'batch': 8, 'optimizer.name': 'sgd', 'augment': False}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= flat(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted names as sections.

    Example:
        >>> nested({"batch": 8, "optimizer.name": "sgd"})
        {'batch': 8, 'optimizer': {'name': 'sgd'}}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        *sections, name = key.split(".")
        place = found
        for section in sections:
            place = place.setdefault(section, {})
        place[name] = value
    return found


def config_text(choices: Iterable[Choice], given: Mapping[str, Any], notes: Iterable[str] = ()) -> str:
    """The config.

    Args:
        choices: What was chosen, and what was given in its place.
        given: All that was given, by dotted name.
        notes: Lines for its head.

    Returns:
        YAML with a section `train`.

    Example:
        >>> print(config_text([Choice("batch", 8, "fits"), Choice("loss.dice", 1.0, GIVEN)], {"tiles": "t#1"}), end="")
        train:
          tiles: t#1  # given
          batch: 8  # fits
          loss:
            dice: 1.0  # given
    """
    kept = list(choices)
    chosen = {choice.key for choice in kept}
    rows = [Choice(key, value, GIVEN) for key, value in given.items() if key not in chosen] + kept
    lines = [f"# {note}" for note in notes] + ["train:"]
    for section in dict.fromkeys(choice.key.partition(".")[0] for choice in rows):
        own = [choice for choice in rows if choice.key.partition(".")[0] == section]
        if own[0].key == section:
            lines.append(f"  {section}: {_scalar(own[0].value)}  # {own[0].reason}")
            continue
        lines.append(f"  {section}:")
        lines += [f"    {choice.key.partition('.')[2]}: {_scalar(choice.value)}  # {choice.reason}" for choice in own]
    return "\n".join(lines) + "\n"


def _scalar(value: Any) -> str:
    """A plain value on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("...\n").strip()
