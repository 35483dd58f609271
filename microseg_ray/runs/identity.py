"""What the results of a run are bound to: the model, the settings that decide pixels and are used, and what computes.

A run is continued only under the same identity; otherwise the differences are named and nothing is mixed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from microseg_ray.versions import version

if TYPE_CHECKING:
    from microseg_ray.models.card import ModelCard
    from microseg_ray.settings import EngineSettings, SourceSettings
    from microseg_ray.sources import ScaleRule
    from microseg_ray.stitching import EnginePlan

__all__ = ["PIXEL_FORMAT", "RunIdentity", "computed_with", "pixel_settings"]

PIXEL_FORMAT = 2
"""Of what microseg_ray itself computes: raised by a change that gives other pixels from the same model and settings."""

_SHOWN = 12


@dataclass(frozen=True)
class RunIdentity:
    """Everything that decides pixels and is the same for all micrographs of a run.

    Attributes:
        model_digest: Of the checkpoint, as `models.card.model_digest` defines it.
        pixels: Settings that decide pixels, by name; `computed_with` holds versions.
    """

    model_digest: str
    pixels: Mapping[str, Any]

    def differences(self, other: RunIdentity) -> list[str]:
        """What differs, one phrase each; `self` is the older one.

        Example:
            >>> RunIdentity("a", {"halo": 64}).differences(RunIdentity("a", {"halo": 96}))
            ['halo: 64 there, 96 now']
            >>> older = RunIdentity("a", {"computed_with": {"torch": "2.9.0"}})
            >>> older.differences(RunIdentity("a", {"computed_with": {"torch": "2.10.0"}}))
            ['computed_with.torch: 2.9.0 there, 2.10.0 now']
        """
        found = []
        if self.model_digest != other.model_digest:
            found.append(f"model: {self.model_digest[:_SHOWN]} there, {other.model_digest[:_SHOWN]} now")
        return found + _differences("", self.pixels, other.pixels)


def _differences(prefix: str, older: Mapping[str, Any], newer: Mapping[str, Any]) -> list[str]:
    found = []
    for key in sorted({*older, *newer}):
        old, new = older.get(key), newer.get(key)
        if key == "computed_with" and isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(f"{prefix}{key}.", old, new)
        elif old != new:
            found.append(f"{prefix}{key}: {_shown(old)} there, {_shown(new)} now")
    return found


def _shown(value: object) -> str:
    return "not recorded" if value is None else str(value)


def computed_with(card: ModelCard, runtime: Mapping[str, str]) -> dict[str, Any]:
    """Versions of what computes pixels; a run is not continued under others.

    torch and OpenVINO choose other kernels, and so other roundings, from one version to the next. What numpy does here
    (weighted sums, resampling) is elementwise float arithmetic that IEEE 754 fixes, so its version is noted in run.json but
    does not bind.

    Args:
        card: The model's card: only what this model passes through counts.
        runtime: What computes the network, as `models.runtimes.runtime_record`.
    """
    found: dict[str, Any] = {"pixel_format": PIXEL_FORMAT, **runtime}
    if card.scaling.clahe is not None:
        found["scikit-image"] = version("scikit-image")
    if card.scaling.flat_field != "none":
        found["scipy"] = version("scipy")
    return found


def pixel_settings(
    settings: EngineSettings,
    card: ModelCard,
    plan: EnginePlan,
    source: SourceSettings,
    scale: ScaleRule,
    runtime: Mapping[str, str],
) -> dict[str, Any]:
    """All settings that decide pixels and are used, as plain JSON types.

    Args:
        settings: The job's settings.
        card: The model's card.
        plan: The engine's plan.
        source: How micrographs are opened.
        scale: What happens to a micrograph of another pixel size than the model's.
        runtime: What computes the network, as `models.runtimes.runtime_record`.
    """
    return {
        **plan.used,
        **({"path": "strips"} if plan.strip else {}),
        "precision": settings.precision,
        "device": "cuda" if settings.gpu else "cpu",
        "threads": settings.threads or 1,
        # The pixel size itself belongs to the identity of each mask, where it decides pixels.
        "source": source.model_dump(exclude={"pixel_size_um", "pixel_sizes"}, mode="json"),
        "scale": _scale(scale, source),
        "computed_with": computed_with(card, runtime),
    } | ({"intensity_mismatch": settings.on_intensity_mismatch} if card.scaling.kind == "dtype" else {})


def _scale(scale: ScaleRule, source: SourceSettings) -> dict[str, Any]:
    """The rule as far as it is used: without a trained pixel size, or with `ignore`, no pixel size is compared."""
    if scale.pixel_size_um is None or scale.mismatch == "ignore":
        return {"mismatch": "ignore"}
    used: dict[str, Any] = {"tolerance": scale.tolerance, "mismatch": scale.mismatch}
    if scale.mismatch == "rescale":
        # A list, as JSON gives it back.
        used["pixel_size_um"] = list(source.pixel_size_um or ())
    return used
