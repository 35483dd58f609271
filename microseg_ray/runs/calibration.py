"""One run, one calibration: the pixel size that the user gave once is that of all masks of the run.

`segment` and `plan` without a pixel size of their own go on with the run's. `measure` gives the finished masks another one,
where the model would have been applied to the same pixels at it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from microseg_ray.errors import SettingsError
from microseg_ray.files import absolute_text, place, write_json
from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.sources import ScaleRule

if TYPE_CHECKING:
    from collections.abc import Mapping

    from microseg_ray.settings import EngineSettings

S = TypeVar("S", bound="EngineSettings")

__all__ = ["calibration_record", "keep_calibration", "recalibrate", "require_same_grid"]

SHOWN = 5


def calibration_record(settings: EngineSettings) -> dict[str, Any]:
    """What the user said of pixel sizes, for run.json.

    Args:
        settings: The job's settings.
    """
    size = settings.pixel_size_um or settings.source.pixel_size_um
    table = settings.source.pixel_sizes
    return {
        "pixel_size_um": None if size is None else list(size),
        "pixel_sizes": None if table is None else absolute_text(table),
    }


def keep_calibration(settings: S) -> tuple[S, str]:
    """The settings with the run's calibration where they give none, and a note that says so; "" where nothing changes.

    Args:
        settings: The settings of `segment` or `plan`.
    """
    path = place(settings.output) / "run.json"
    if settings.overwrite or not path.exists() or any(calibration_record(settings).values()):
        return settings, ""
    kept = Run.open(settings.output).document.get("calibration", {})
    size, table = kept.get("pixel_size_um"), kept.get("pixel_sizes")
    if size is None and table is None:
        return settings, ""
    source = settings.source.model_copy(update={"pixel_sizes": table})
    changed = {"pixel_size_um": None if size is None else (float(size[0]), float(size[1])), "source": source}
    said = f"{size[0]:g} x {size[1]:g} um" if size is not None else f"the table {table}"
    return settings.model_copy(update=changed), f"pixel size: {said}, kept from before in this run"


def recalibrate(run: Run, pixel_size_um: tuple[float, float]) -> Run:
    """Give all finished masks another pixel size; no pixel changes, so no inference is needed.

    Args:
        run: The run; locked by the caller.
        pixel_size_um: (y, x) of the micrographs; a mask on a rescaled grid gets its own from it.

    Returns:
        The run with the pixel size in its document.

    Raises:
        SettingsError: At this pixel size the model would have refused or rescaled a micrograph, or rescaled it to another
            grid; nothing is changed then.
    """
    require_same_grid(run, pixel_size_um, "measure")
    run.recalibrate(pixel_size_um, _rule(run.document).note(pixel_size_um))
    record = {**run.document.get("calibration", {}), "pixel_size_um": list(pixel_size_um)}
    document = {**run.document, "calibration": record}
    write_json(run.folder / "run.json", document, sort_keys=True)
    return Run(run.folder, run.identity, document)


def require_same_grid(run: Run, pixel_size_um: tuple[float, float], job: str) -> None:
    """Refuse a pixel size at which the model would not have seen the pixels that the run's masks lie on.

    Args:
        run: The run.
        pixel_size_um: (y, x) of the micrographs.
        job: Whose setting it is, for the message.

    Raises:
        SettingsError: The message names the micrographs to segment again.
    """
    rule = _rule(run.document)
    stores = {name: MaskStore.open(run.store_path(name)) for name in run.names()}
    finished = {name: store for name, store in stores.items() if store.finished}
    wrong = [name for name, store in finished.items() if not _same_grid(store, rule, pixel_size_um)]
    if wrong:
        rest = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        trained = rule.pixel_size_um or pixel_size_um
        raise SettingsError(
            f"{job}.pixel_size_um: at {pixel_size_um[0]:g} x {pixel_size_um[1]:g} um the model, trained at {trained[0]:g} x "
            f"{trained[1]:g} um, would have been applied to other pixels of {', '.join(wrong[:SHOWN])}{rest} "
            f"(on_scale_mismatch: {rule.mismatch}); segment these again into another output with --pixel_size_um; nothing was "
            "changed"
        )


def _rule(document: Mapping[str, Any]) -> ScaleRule:
    size, settings = document.get("model_pixel_size_um"), document["settings"]
    return ScaleRule(
        None if size is None else (float(size[0]), float(size[1])),
        float(settings.get("scale_tolerance", 0.1)),
        settings.get("on_scale_mismatch", "stop"),
    )


def _same_grid(store: MaskStore, rule: ScaleRule, size: tuple[float, float]) -> bool:
    """Whether the model would have seen the pixels that the mask lies on, had the micrograph this pixel size."""
    note = store.note.get("rescaled")
    if rule.mismatch == "ignore" or not rule.differs(size):
        return note is None
    if rule.mismatch == "stop" or note is None or rule.pixel_size_um is None:
        return False
    # A factor is mask pixels a file pixel at the trained size: the same grid needs the same factor.
    wanted = (rule.pixel_size_um[0] / size[0], rule.pixel_size_um[1] / size[1])
    return all(
        abs(have / want - 1) < 1 / max(store.spec.shape) for have, want in zip(note["factor"], wanted, strict=True)
    )
