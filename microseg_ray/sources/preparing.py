"""A micrograph as a model is to see it: without its info bar, evenly lit, at the pixel size that the model knows."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.settings.source import SourceSettings
from microseg_ray.sources.opening import open_micrograph
from microseg_ray.sources.rescaled import Rescaled
from microseg_ray.sources.specimen.flat_field import FlatMicrograph
from microseg_ray.sources.specimen.info_bar import find_info_bar

if TYPE_CHECKING:
    from collections.abc import Mapping

    from microseg_ray.files import Where
    from microseg_ray.settings import Scaling
    from microseg_ray.sources.base import Micrograph
    from microseg_ray.sources.info import MicrographInfo
    from microseg_ray.sources.scale.rule import ScaleRule

__all__ = ["View", "open_prepared", "open_view", "prepared"]

_AGREE = 2  # rows: an info bar in the pixels is the stated one


@dataclass(frozen=True)
class View:
    """What was decided about a micrograph when it was first opened; a mask lies on this grid.

    Attributes:
        shape: (height, width) of the grid, info bar included.
        info_bar: Its rows on this grid.
        file_info_bar: Its rows in the file.
        file_shape: (height, width) in the file where the grid is a rescaled one, else None.

    Example:
        >>> View((110, 50), info_bar=10, file_info_bar=10).specimen
        Box(y0=0, x0=0, y1=100, x1=50)
    """

    shape: tuple[int, int]
    info_bar: int = 0
    file_info_bar: int = 0
    file_shape: tuple[int, int] | None = None

    @classmethod
    def of(cls, info: MicrographInfo, file_info_bar: int) -> View:
        """The view that an open, prepared micrograph shows."""
        return cls(info.shape, info.info_bar_rows, file_info_bar, info.file_shape)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> View:
        """The view that `record` described."""
        height, width = record["shape"]
        found = record["file_shape"]
        file_shape = None if found is None else (int(found[0]), int(found[1]))
        return cls((int(height), int(width)), int(record["info_bar"]), int(record["file_info_bar"]), file_shape)

    def record(self) -> dict[str, Any]:
        """This view in plain JSON types.

        Example:
            >>> view = View((55, 25), 5, 10, (110, 50))
            >>> View.of_record(view.record()) == view
            True
        """
        return {
            "shape": list(self.shape),
            "info_bar": self.info_bar,
            "file_info_bar": self.file_info_bar,
            "file_shape": None if self.file_shape is None else list(self.file_shape),
        }

    @property
    def specimen(self) -> Box:
        """The rows above the info bar."""
        return Box(0, 0, self.shape[0] - self.info_bar, self.shape[1])


def open_prepared(
    path: Where,
    scaling: Scaling,
    source: SourceSettings | None = None,
    scale: ScaleRule | None = None,
) -> Micrograph:
    """Open a micrograph as a model is to see it.

    With `source.info_bar: auto` its info bar is searched in its pixels; a bar that the file states counts where the pixels
    show none, and where both differ by more than 2 rows, the pixels count and a note says so. Its background is removed
    where the scaling asks for it, and it is rescaled where the rule asks for it. `info.specimen` is the part to learn
    from and to measure.

    Args:
        path: As in `open_micrograph`.
        scaling: `flat_field` counts; intensity limits are taken afterwards, with `intensity_limits`.
        source: Page, channel, info bar and pixel size; the defaults where None.
        scale: The model's pixel size and what to do about another one; None reads every micrograph as it is.

    Raises:
        InputError: As `open_micrograph` and `estimate_flat_field`; or its pixel size is not the model's, and the rule is
            to stop.

    Example:
        >>> from microseg_ray.settings import Scaling
        >>> open_prepared("missing.tif", Scaling(flat_field="divide"))
        Traceback (most recent call last):
            ...
        microseg_ray.errors.InputError: missing.tif: no such file or folder; check the path
    """
    micrograph = open_micrograph(path, source)
    try:
        return prepared(micrograph, scaling, source, scale)
    except BaseException:
        micrograph.close()
        raise


def prepared(
    micrograph: Micrograph, scaling: Scaling, source: SourceSettings | None = None, scale: ScaleRule | None = None
) -> Micrograph:
    """An open micrograph as a model is to see it: `open_prepared` in two steps.

    Args:
        micrograph: From `open_micrograph` with the same `source`; the result closes it.
        scaling: As in `open_prepared`.
        source: As in `open_prepared`.
        scale: As in `open_prepared`.

    Raises:
        InputError: As `open_prepared`.
    """
    _find_bar(micrograph, source or SourceSettings())
    # Refused before anything is estimated.
    target = None if scale is None else scale.target(micrograph.info)
    return _wrapped(micrograph, scaling, target)


def open_view(path: Where, scaling: Scaling, source: SourceSettings | None, view: View) -> Micrograph:
    """Open a micrograph as it was decided before: nothing is looked for, no pixel size decides.

    Args:
        path: As in `open_micrograph`.
        scaling: `flat_field` counts.
        source: Page and channel.
        view: What was decided.

    Raises:
        InputError: As `open_prepared`; or the micrograph is not of the view's shape any more.
    """
    decided = {"info_bar": view.file_info_bar or "none", "pixel_sizes": None}
    micrograph = open_micrograph(path, (source or SourceSettings()).model_copy(update=decided))
    try:
        _require_shape(micrograph.info, view)
        return _wrapped(micrograph, scaling, None if view.file_shape is None else view.specimen.shape)
    except BaseException:
        micrograph.close()
        raise


def _require_shape(info: MicrographInfo, view: View) -> None:
    expected = view.file_shape or view.shape
    if info.shape != expected:
        reason = f"has {info.shape} (height, width) pixels, and had {expected}"
        raise InputError(info.path, reason, "it has changed meanwhile; run the same command again")


def _find_bar(micrograph: Micrograph, source: SourceSettings) -> None:
    """Set the info bar: the user's, else the one in the pixels, else the one that the file states."""
    info = micrograph.info
    if source.info_bar != "auto":
        return
    try:
        rows = find_info_bar(micrograph.read, info.shape)
    except InputError:
        return  # damaged there: whoever needs those pixels says so, with the place
    # Tags outlive resizing and cropping in an editor; a bar of nearly the stated height confirms them.
    if abs(rows - info.info_bar_rows) <= _AGREE and (info.info_bar_source or not rows):
        return
    notes = info.pixel_size_notes
    if info.info_bar_source:
        seen = f"show one of {rows}: the pixels count" if rows else "show none: the stated rows are left out"
        stated = f"{info.info_bar_source} states an info bar of {info.info_bar_rows} rows"
        notes = (*notes, f"{stated}, the pixels {seen}")
    if rows:
        info = replace(info, info_bar_rows=rows, info_bar_source="pixels")
    micrograph.info = replace(info, pixel_size_notes=notes)


def _wrapped(micrograph: Micrograph, scaling: Scaling, target: tuple[int, int] | None) -> Micrograph:
    if scaling.flat_field != "none":
        micrograph = FlatMicrograph(micrograph, scaling.flat_field)
    return micrograph if target is None else Rescaled(micrograph, target)
