"""The HTML page of a run folder."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.errors import MicrosegError
from microseg_ray.figures.pictures import thumbnail
from microseg_ray.names import text
from microseg_ray.outputs import Kind
from microseg_ray.report.methods import methods_of
from microseg_ray.report.page import Panel, RunReport, write_run_report
from microseg_ray.report.statistics import statistics_of
from microseg_ray.report.viewer.listing import outlier_scores
from microseg_ray.runs.folder import Run
from microseg_ray.runs.opening import open_of_run
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.stitching.seams import promise

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from microseg_ray.accounts import Account
    from microseg_ray.settings import ClassSpec

__all__ = ["report_run"]

PANELS = 12
SHOWN_SETTINGS = (
    *("tile", "tile_area", "halo", "stride", "shard", "blend", "tta", "precision", "threads", "extra"),
    "postprocess",
)


def report_run(
    folder: str | Path, truth: Mapping[tuple[str, str], float] | None = None, *, title: str = "", panels: int = PANELS
) -> Path:
    """Write RUN/report.html: identity, areas, quarantined inputs, overlays.

    Args:
        folder: The run folder.
        truth: True area fraction by (micrograph, class name), shown beside the measured one.
        title: Heading; default: the folder's name.
        panels: Maximum number of micrographs that are shown: where there are more, those whose areas differ most.

    Returns:
        Path of the page.

    Raises:
        StoreError: The folder holds no run.
    """
    run = Run.open(folder)
    areas = run.areas()
    shown = list(dict.fromkeys(str(row["micrograph"]) for row in areas))
    # Tables hold the text of a name; files are found by the name itself.
    by = {text(name): name for name in run.names()}
    if len(shown) > panels:
        shown = outliers_first(areas)
    names = [by[name] for name in shown if name in by]
    accounts = run.accounts()
    page = run.folder / "report.html"
    run.claim({page.name: Kind.FILE})
    report = RunReport(
        title=title or f"Run {run.folder.name}",
        identity=_identity(run, accounts),
        areas=areas,
        failures=[vars(failure) for failure in run.failures()],
        panels=[panel for name in names[:panels] if (panel := _panel(run, name)) is not None],
        truth=None if truth is None else dict(truth),
        objects=_objects(run),
        statistics=statistics_of(run),
        methods=methods_of(run, areas, accounts),
    )
    write_run_report(page, report)
    return page


def outliers_first(areas: Iterable[Mapping[str, Any]]) -> list[str]:
    """Micrographs by how far their area fractions are from the others', as `viewer.listing.outlier_scores` has it.

    Args:
        areas: Rows of areas.parquet.

    Example:
        >>> fractions = {"a": 0.10, "b": 0.12, "c": 0.50, "d": 0.11}
        >>> outliers_first({"micrograph": name, "class_index": 0, "area_fraction": f} for name, f in fractions.items())
        ['c', 'a', 'b', 'd']
    """
    rows: dict[str, dict[int, float]] = {}
    for row in areas:
        own = rows.setdefault(str(row["micrograph"]), {})
        own[int(row["class_index"])] = np.nan if row["area_fraction"] is None else float(row["area_fraction"])
    count = 1 + max((index for own in rows.values() for index in own), default=0)
    fractions = np.array([[own.get(index, np.nan) for index in range(count)] for own in rows.values()])
    scores = outlier_scores(fractions.reshape(len(rows), count))
    # What was not measured comes last.
    order = np.argsort(-np.nan_to_num(scores, nan=-1.0), kind="stable")
    names = list(rows)
    return [names[place] for place in order]


def _identity(run: Run, accounts: Iterable[Account]) -> dict[str, str]:
    document, pixels = run.document, run.identity.pixels
    shown = {
        "model digest": run.identity.model_digest,
        "verdict": promise(
            str(document.get("verdict", "")), str(document.get("verdict_reason", "")), document.get("seams") or {}
        ),
        "archive": str(document.get("archive", "")),
        "checkpoint": _checkpoints(document.get("checkpoint", "")),
    }
    shown |= {key: str(pixels[key]) for key in SHOWN_SETTINGS if key in pixels}
    shown["accounting"] = "; ".join(str(each) for each in accounts)
    versions: Mapping[str, Any] = document.get("versions", {})
    shown["versions"] = ", ".join(f"{name} {version}" for name, version in versions.items())
    return shown


def _checkpoints(named: Any) -> str:
    """One folder, or those of an ensemble."""
    return ", ".join(map(str, named)) if isinstance(named, list) else str(named)


def _objects(run: Run) -> list[dict[str, Any]]:
    """The rows of object_classes.csv; none where `measure` did not run."""
    path = run.folder / "object_classes.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as handle:
        return list(csv.DictReader(handle))


def _panel(run: Run, name: str) -> Panel | None:
    """Thumbnails of micrograph and mask; None if the micrograph is missing, or one of the two is damaged."""
    classes: tuple[ClassSpec, ...] = run.classes
    try:
        store = MaskStore.open(run.store_path(name))
        shape = store.spec.shape
        with open_of_run(run, name, store) as micrograph:
            image = thumbnail(micrograph.read, shape)
        mask = thumbnail(lambda box: store.read(box)[None], shape, labels=True)[0]
    except (MicrosegError, ValueError, RuntimeError, OSError):
        return None
    size = store.note.get("pixel_size_um")
    step = -(-max(shape) // 512)
    return Panel(name, image, mask, classes, None if size is None else (size[0] * step, size[1] * step))
