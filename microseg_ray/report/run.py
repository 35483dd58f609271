"""The HTML page of a run folder."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from microseg_ray.accounts import ACCOUNTS_FILE, read_accounts
from microseg_ray.errors import MicrosegError
from microseg_ray.figures.pictures import thumbnail
from microseg_ray.names import text
from microseg_ray.outputs import Kind
from microseg_ray.report.methods import methods_of
from microseg_ray.report.page import Panel, RunReport, write_run_report
from microseg_ray.report.provenance import provenance_of
from microseg_ray.report.statistics import statistics_of
from microseg_ray.report.thumbnails import write_thumbnails
from microseg_ray.report.uncertain import uncertain_places
from microseg_ray.report.viewer.listing import micrograph_intervals, outlier_scores
from microseg_ray.runs.folder import Run
from microseg_ray.runs.opening import open_of_run
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.stitching.seams import promise
from microseg_ray.tables import read_parquet

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from microseg_ray.accounts import Account
    from microseg_ray.files import Place, Where
    from microseg_ray.settings import ClassSpec

__all__ = ["Shown", "report_run"]

PANELS = 12
PLACES = 12
SHOWN_SETTINGS = (
    *("tile", "tile_area", "halo", "stride", "shard", "blend", "tta", "precision", "threads", "extra"),
    "postprocess",
)


@dataclass(frozen=True)
class Shown:
    """What of a run is on its page.

    Attributes:
        panels: Maximum number of micrographs that are shown: where there are more, those whose areas differ most.
        places: Maximum number of the least certain places.
        thumbnails: Whether each mask has a thumbnail beside its areas.
    """

    panels: int = PANELS
    places: int = PLACES
    thumbnails: bool = True


def report_run(
    folder: Where,
    truth: Mapping[tuple[str, str], float] | None = None,
    *,
    title: str = "",
    shown: Shown | None = None,
) -> Place:
    """Write RUN/report.html: identity, areas, quarantined inputs, overlays, the least certain places; and RUN/thumbnails.

    Args:
        folder: The run folder.
        truth: True area fraction by (micrograph, class name), shown beside the measured one.
        title: Heading; default: the folder's name.
        shown: How much of the run is shown.

    Returns:
        Path of the page.

    Raises:
        StoreError: The folder holds no run.
    """
    run, shown = Run.open(folder), shown or Shown()
    areas = run.areas()
    scores = scores_of(areas)
    ranked = outliers_first(scores)
    # Tables hold the text of a name; files are found by the name itself.
    by = {text(name): name for name in run.names()}
    names = [by[name] for name in ranked if name in by]
    # The order of the table where all of them are shown.
    panels = names[: shown.panels] if len(names) > shown.panels else sorted(names)
    page = run.folder / "report.html"
    run.claim({page.name: Kind.FILE})
    accounts = read_accounts(run.folder / ACCOUNTS_FILE) or run.accounts()
    report = RunReport(
        title=title or f"Run {text(run.folder.name)}",
        identity=_identity(run, accounts),
        areas=_sorted(areas, ranked, _intervals(run)),
        failures=[vars(failure) for failure in run.failures()],
        panels=[panel for name in panels if (panel := _panel(run, name)) is not None],
        truth=None if truth is None else dict(truth),
        objects=_objects(run, ranked),
        statistics=statistics_of(run),
        methods=methods_of(run, areas, accounts),
        scores=scores if len(scores) > 2 else {},
        thumbnails=write_thumbnails(run, names if shown.thumbnails else []),
        places=uncertain_places(run, sorted(names), shown.places),
        classes=run.classes,
        provenance=provenance_of(run),
    )
    write_run_report(page, report)
    return page


def _sorted(
    areas: Iterable[dict[str, Any]], ranked: Sequence[str], intervals: Mapping[tuple[str, int], tuple[Any, Any]]
) -> list[dict[str, Any]]:
    """The rows of areas, outliers first, with their intervals."""
    rank = {name: place for place, name in enumerate(ranked)}
    rows = []
    for row in areas:
        low, high = intervals.get((row["micrograph"], row["class_index"]), (None, None))
        rows.append({**row, "low": low, "high": high})
    return sorted(rows, key=lambda row: rank[str(row["micrograph"])])


def _intervals(run: Run) -> dict[tuple[str, int], tuple[Any, Any]]:
    """Interval of the area fraction by micrograph and class: that of sampling, which every micrograph can have."""
    if not (run.folder / "intervals.parquet").is_file():
        return {}
    table = micrograph_intervals(read_parquet(run.folder / "intervals.parquet"))
    columns = (table[name].to_pylist() for name in ("name", "class_index", "low", "high"))
    return {(name, index): (low, high) for name, index, low, high in zip(*columns, strict=True)}


def scores_of(areas: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """How unusual each micrograph is, as `viewer.listing.outlier_scores` has it; NaN where it was not measured.

    Args:
        areas: Rows of areas.parquet.
    """
    rows: dict[str, dict[int, float]] = {}
    for row in areas:
        own = rows.setdefault(str(row["micrograph"]), {})
        own[int(row["class_index"])] = np.nan if row["area_fraction"] is None else float(row["area_fraction"])
    count = 1 + max((index for own in rows.values() for index in own), default=0)
    fractions = np.array([[own.get(index, np.nan) for index in range(count)] for own in rows.values()])
    scores = outlier_scores(fractions.reshape(len(rows), count))
    return dict(zip(rows, map(float, scores), strict=True))


def outliers_first(scores: Mapping[str, float]) -> list[str]:
    """Micrographs by how unusual they are; what was not measured comes last.

    Example:
        >>> outliers_first({"a": 0.5, "b": float("nan"), "c": 7.0, "d": 0.5})
        ['c', 'a', 'd', 'b']
    """
    return sorted(scores, key=lambda name: -1.0 if np.isnan(scores[name]) else scores[name], reverse=True)


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


def _objects(run: Run, ranked: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of object_classes.csv, outliers first; none where `measure` did not run."""
    path = run.folder / "object_classes.csv"
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as handle:
        rows = list(csv.DictReader(handle))
    rank = {name: place for place, name in enumerate(ranked)}
    return sorted(rows, key=lambda row: rank.get(row["micrograph"], len(rank)))


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
