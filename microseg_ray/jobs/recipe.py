"""The recipe job: prints the config that it chose, and where it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape

from microseg_ray.jobs.console import DONE, StartRay, console

if TYPE_CHECKING:
    from microseg_ray.settings.recipe import RecipeSettings

__all__ = ["recipe"]


def recipe(settings: RecipeSettings, _start: StartRay) -> int:
    """Choose the settings of a fit and print them."""
    from microseg_ray.fitting.recipe.job import make_recipe

    made = make_recipe(settings)
    console.print(escape(made.text), soft_wrap=True, highlight=False, end="")
    console.print(
        f"config: {escape(str(made.path))}; go on with: microseg train {escape(str(made.path))}", soft_wrap=True
    )
    return DONE
