"""A methods paragraph for a paper, and what to cite, from what a run records: nothing is said that is not recorded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from microseg_ray.names import text
from microseg_ray.sources.scale.provenance import OPTION

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from microseg_ray.accounts import Account
    from microseg_ray.runs.folder import Run

__all__ = ["Methods", "methods_of"]

_NGFF = (
    "J. Moore et al., OME-NGFF: a next-generation file format for expanding bioimaging "
    "data-access strategies, Nature Methods 18, 1496 (2021)"
)
_TORCH = (
    "A. Paszke et al., PyTorch: an imperative style, high-performance deep learning library, "
    "Advances in Neural Information Processing Systems 32 (2019)"
)
_TILES = (
    "M. Majurski, P. Bajcsy, Exact tile-based segmentation inference for images larger than GPU memory, "
    "J. Res. NIST 126, 126009 (2021)"
)
_PERIMETER = (
    "D. Legland, K. Kieu, M.-F. Devaux, Computation of Minkowski measures on 2D and 3D binary images, "
    "Image Anal. Stereol. 26, 83 (2007)"
)
_POINTS = "ASTM E562, Standard test method for determining volume fraction by systematic manual point count"


@dataclass(frozen=True)
class Methods:
    """What a paper says of a run.

    Attributes:
        paragraph: For the methods section.
        citations: What to cite, in the order of the paragraph.
    """

    paragraph: str
    citations: tuple[str, ...]


def methods_of(run: Run, areas: Iterable[Mapping[str, Any]], accounts: Iterable[Account]) -> Methods:
    """The methods paragraph of a run.

    Args:
        run: The run.
        areas: Rows of its areas.parquet.
        accounts: Files and pixels of the run.
    """
    document = run.document
    by_quantity = {each.quantity: each for each in accounts}
    files, pixels = by_quantity.get("files"), by_quantity.get("pixels")
    versions: Mapping[str, str] = document.get("versions", {})
    names = [spec.name for spec in run.classes]
    used = files.used if files else 0
    verb = "was" if used == 1 else "were"
    made_with = f"microseg_ray {versions.get('microseg_ray', '(version not recorded)')}"
    computed = (
        f"{document.get('runtime', 'runtime not recorded')}; model digest sha256:{run.identity.model_digest[:16]}"
    )
    parts = [
        f"{_count(used, 'micrograph')} {verb} segmented into the classes {_list(names)} with {made_with} ({computed})."
    ]
    parts += _pieces(run)
    if document.get("promise"):
        parts.append(f"Stitching: {document['promise']}.")
    if pixels and pixels.seen:
        out = sum(pixels.not_taken.values())
        left = f"{out:,} px ({100 * out / pixels.seen:.2f} %) of info bars or without a class were left out"
        parts.append(f"Areas were counted on the stitched masks, each pixel once: {pixels.used:,} px; {left}.")
    parts += _scales(areas)
    if files and files.set_aside:
        listed = "is" if files.set_aside == 1 else "are"
        parts.append(f"{_count(files.set_aside, 'input')} could not be used and {listed} listed in failures.csv.")
    intervals, objects = ((run.folder / name).is_file() for name in ("intervals.csv", "object_classes.csv"))
    if intervals:
        parts.append("Intervals of area fractions are at 95 % (docs/statistics.md of microseg_ray defines each).")
    if objects:
        parts.append("Objects are connected components of a class; sizes are corrected for the border of the field.")
    citations = [f"microseg_ray {versions.get('microseg_ray', '')} (Apache-2.0)".replace("  ", " "), _NGFF]
    citations += [_TORCH] if "torch" in str(document.get("runtime", "")) else []
    citations += [_TILES] if "halo" in run.identity.pixels else []
    citations += [_POINTS] if intervals else []
    citations += [_PERIMETER] if objects else []
    return Methods(text(" ".join(parts)), tuple(citations))


def _pieces(run: Run) -> list[str]:
    """How the micrographs were cut, of runs that a model made."""
    pixels = run.identity.pixels
    if pixels.get("path") == "strips":
        return [
            "Each micrograph was streamed through the network in row strips, so that every pixel had its whole context."
        ]
    if "tile" not in pixels or "halo" not in pixels:
        return []
    return [f"Micrographs were computed in tiles of {pixels['tile']} px with a halo of {pixels['halo']} px."]


def _scales(areas: Iterable[Mapping[str, Any]]) -> list[str]:
    """Where pixel sizes come from, by micrograph."""
    source = {
        row["micrograph"]: (row["pixel_size_um_x"] is not None, str(row["pixel_size_source"] or "")) for row in areas
    }
    known = Counter(origin for sized, origin in source.values() if sized)
    lines = []
    if known:
        named = {origin: "given by the user" if origin.startswith(OPTION) else origin for origin in known}
        told = "; ".join(f"{named[origin]}: {count}" for origin, count in sorted(known.items()))
        lines.append(f"Sources of pixel sizes (micrographs): {told}.")
    missing = len(source) - sum(known.values())
    if missing:
        lines.append(f"{_count(missing, 'micrograph')} had no known pixel size; areas there are in pixels.")
    return lines


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
