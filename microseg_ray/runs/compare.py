"""What is said of one file against a checkpoint, before anything is computed: `info --checkpoint`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from microseg_ray.errors import InputError
from microseg_ray.sources import ScaleRule, intensity_limits, open_micrograph, prepared
from microseg_ray.sources.agreement import channel_objection, intensity_note, intensity_objection
from microseg_ray.sources.specimen.intensity import CHECKED_WINDOWS, intensity_sample

if TYPE_CHECKING:
    from microseg_ray.models.card import ModelCard
    from microseg_ray.settings import SourceSettings
    from microseg_ray.sources import Micrograph

__all__ = ["Compared", "compared"]


@dataclass(frozen=True)
class Compared:
    """A micrograph against a model.

    Attributes:
        objections: Why `segment` with its defaults would set the micrograph aside.
        notes: What may not fit; `segment` goes on.
    """

    objections: tuple[str, ...]
    notes: tuple[str, ...]


def compared(path: str, card: ModelCard, source: SourceSettings) -> Compared:
    """Compare a micrograph's channels, pixel size and intensities with a model's card, as `segment` does by default.

    Args:
        path: The micrograph.
        card: The model's card.
        source: How the micrograph is opened.

    Raises:
        InputError: It cannot be read.
    """
    with open_micrograph(path, source) as file:
        rule = ScaleRule(card.pixel_size_um)
        found = [channel_objection(file.info.channels, card.in_channels), _scale_objection(file, rule)]
        notes = ["" if found[-1] else rule.note(file.info.pixel_size_um)]
        micrograph = prepared(file, card.scaling, source)
        sample = intensity_sample(file, CHECKED_WINDOWS)
        reason = intensity_objection(card.scaling, card.intensities, file.info.dtype, sample)
        if reason:
            found.append(reason)
        else:
            notes.append(intensity_note(card.intensities, intensity_limits(micrograph, card.scaling), sample))
    return Compared(tuple(filter(None, found)), tuple(filter(None, notes)))


def _scale_objection(file: Micrograph, rule: ScaleRule) -> str:
    try:
        rule.target(file.info)
    except InputError as error:
        return error.reason
    return ""
