"""Classes: their names and colours, in the order of the mask's values."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from microseg_ray.settings.base import Frozen

__all__ = ["IGNORE_INDEX", "ClassSpec", "Classes", "default_color"]

IGNORE_INDEX = 255
"""The mask value of a pixel that has no class: not labelled, not measured, or burned-in text."""


# Okabe and Ito's palette, which colour-blind readers can distinguish; background first, dark.
_PALETTE = ("#202020", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")


def default_color(index: int) -> str:
    """The colour of class `index` where the user names none, as `#rrggbb`.

    Example:
        >>> default_color(1)
        '#e69f00'
    """
    if index < len(_PALETTE):
        return _PALETTE[index]
    # The golden angle keeps any number of further hues apart.
    import colorsys

    red, green, blue = colorsys.hsv_to_rgb(index * 0.618033988749895 % 1.0, 0.65, 0.95)
    return f"#{round(red * 255):02x}{round(green * 255):02x}{round(blue * 255):02x}"


class ClassSpec(Frozen):
    """One class: its name and the colour that it is drawn in. Its index is its place in the list.

    Example:
        >>> ClassSpec(name="pore", color="#ff0000").name
        'pore'
    """

    name: str = Field(min_length=1)
    color: str = Field(default="", pattern=r"^(#[0-9a-fA-F]{6})?$")


def _classes(value: Any) -> Any:
    """Accept `[clay, silt]` as well as `[{name: clay, color: "#ff0000"}]`."""
    if not isinstance(value, list | tuple):
        return value
    specs = [{"name": item} if isinstance(item, str) else item for item in value]
    names = [
        item["name"] if isinstance(item, dict) and "name" in item else getattr(item, "name", None) for item in specs
    ]
    doubled = sorted({str(name) for name in names if name is not None and names.count(name) > 1})
    if doubled:
        raise ValueError(f"class name used twice: {', '.join(doubled)}")
    if len(specs) > IGNORE_INDEX:
        raise ValueError(
            f"{len(specs)} classes: at most {IGNORE_INDEX} fit a uint8 mask, {IGNORE_INDEX} is the ignore index"
        )
    return tuple(
        item
        if isinstance(item, ClassSpec)
        else {**item, "color": item.get("color") or default_color(index)}
        if isinstance(item, dict)
        else item
        for index, item in enumerate(specs)
    )


Classes = Annotated[tuple[ClassSpec, ...], BeforeValidator(_classes)]
