"""What an annotate job did and what it left out."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any

from microseg_ray.accounts import ACCOUNTS_FILE, write_accounts
from microseg_ray.files import BOOKS, write_text
from microseg_ray.outputs import MANIFEST, foreign_in, has_manifest
from microseg_ray.quarantine import FAILURES_FILE, Failure, write_failures

if TYPE_CHECKING:
    from microseg_ray.accounts import Account
    from microseg_ray.files import Place

__all__ = ["TABLES", "AnnotationReport", "MaskLine", "holds_masks", "write_report"]

REPORT_NAME = "report.json"
TABLES = (REPORT_NAME, FAILURES_FILE, ACCOUNTS_FILE)
"""What is written beside the masks."""


@dataclass(frozen=True)
class MaskLine:
    """One mask that was written.

    Attributes:
        image: The image's name.
        mask: The mask's path, relative to the output.
        regions: Drawn regions, None where the annotation is an image.
        pixels: Pixels of each class, in the order of the classes.
        ignored: Pixels that are 255.
    """

    image: str
    mask: str
    regions: int | None
    pixels: tuple[int, ...]
    ignored: int


@dataclass
class AnnotationReport:
    """What was made of the annotations.

    Attributes:
        format: The annotations' format.
        classes: Names in the order of their indices.
        images: How many images there are.
        masks: One line per mask that was written.
        regions: Drawn regions per class.
        unknown_classes: Regions whose class is no class: value -> regions. They were not drawn.
        defaulted_classes: Regions whose class is no class, drawn as `default_class`: value -> regions.
        other_pages: Regions of another page than the one that is read: (where, reason). They were not drawn.
        unmatched_pixels: Pixels of annotation images that fit no rule: colour or number -> pixels. They are 255.
        ignored_shapes: Points and other shapes without an area: kind -> count.
        images_without_regions: Images that are annotated with nothing; skipped unless `empty: unlabelled`.
        images_without_annotation: Images that no annotation names.
        annotations_without_image: What names no image: (where, reason).
        refused_names: Names in annotation files that leave their folder: (where, reason).
        clipped_regions: Regions that leave their image by more than a pixel; cut off.
        skipped_regions: Regions that could not be drawn: (where, reason).
        failures: Files that could not be used: (path, stage, reason).
        accounting: Images, annotations and regions: seen = used + set aside + not taken.

    Example:
        >>> report = AnnotationReport("via", ("a", "b"))
        >>> report.masks.append(MaskLine("x.png", "x.png", 1, (3, 1), 0))
        >>> report.pixels, report.fractions, report.problems
        ((3, 1), (0.75, 0.25), {})
    """

    format: str
    classes: tuple[str, ...]
    images: int = 0
    masks: list[MaskLine] = field(default_factory=list)
    regions: Counter[str] = field(default_factory=Counter)
    unknown_classes: Counter[str] = field(default_factory=Counter)
    defaulted_classes: Counter[str] = field(default_factory=Counter)
    other_pages: list[tuple[str, str]] = field(default_factory=list)
    unmatched_pixels: Counter[str] = field(default_factory=Counter)
    ignored_shapes: Counter[str] = field(default_factory=Counter)
    images_without_regions: list[str] = field(default_factory=list)
    images_without_annotation: list[str] = field(default_factory=list)
    annotations_without_image: list[tuple[str, str]] = field(default_factory=list)
    refused_names: list[tuple[str, str]] = field(default_factory=list)
    clipped_regions: list[str] = field(default_factory=list)
    skipped_regions: list[tuple[str, str]] = field(default_factory=list)
    failures: list[tuple[str, str, str]] = field(default_factory=list)
    accounting: tuple[Account, ...] = ()

    @property
    def pixels(self) -> tuple[int, ...]:
        """Pixels of each class over all masks."""
        return tuple(sum(mask.pixels[index] for mask in self.masks) for index in range(len(self.classes)))

    @property
    def ignored(self) -> int:
        """Pixels of all masks that are 255."""
        return sum(mask.ignored for mask in self.masks)

    @property
    def fractions(self) -> tuple[float | None, ...]:
        """Share of each class in the pixels that have a class; None where none has."""
        total = sum(self.pixels)
        return tuple(count / total if total else None for count in self.pixels)

    @property
    def problems(self) -> dict[str, int]:
        """How often each kind of thing was left out; what `strict` fails on."""
        found = {
            "regions of unknown class": sum(self.unknown_classes.values()),
            "regions of other pages": len(self.other_pages),
            "pixels that fit no rule": sum(self.unmatched_pixels.values()),
            "shapes without an area": sum(self.ignored_shapes.values()),
            "images without regions": len(self.images_without_regions),
            "images without annotation": len(self.images_without_annotation),
            "annotations without image": len(self.annotations_without_image),
            "refused names": len(self.refused_names),
            "clipped regions": len(self.clipped_regions),
            "skipped regions": len(self.skipped_regions),
        }
        return {name: count for name, count in found.items() if count}

    def as_json(self) -> dict[str, Any]:
        """Everything as plain JSON types, with the totals."""
        totals = [
            {"name": name, "regions": self.regions.get(name, 0), "pixels": count, "fraction": share}
            for name, count, share in zip(self.classes, self.pixels, self.fractions, strict=True)
        ]
        # asdict would break a Counter apart.
        own = {item.name: getattr(self, item.name) for item in fields(self)}
        masks = [asdict(mask) for mask in self.masks]
        accounting = [each.as_json() for each in self.accounting]
        return {
            **own,
            "accounting": accounting,
            "masks": masks,
            "totals": totals,
            "ignored_pixels": self.ignored,
            "problems": self.problems,
        }


def holds_masks(folder: Place) -> bool:
    """Whether a folder holds anything but the tables of an attempt that made no mask, which binds nothing.

    Example:
        >>> from pathlib import Path
        >>> holds_masks(Path("/nowhere"))
        False
    """
    books = {MANIFEST, *BOOKS}
    if not folder.is_dir():
        return False
    proven = has_manifest(folder) and not foreign_in(folder)
    return any(each.name not in books and not (proven and each.name in TABLES) for each in folder.iterdir())


def write_report(folder: Place, report: AnnotationReport, settings: dict[str, Any]) -> Place:
    """Write report.json, failures.csv and accounting.csv, each whole or not at all."""
    write_failures(folder / FAILURES_FILE, [Failure(*failure) for failure in report.failures])
    write_accounts(folder / ACCOUNTS_FILE, report.accounting)
    target = folder / REPORT_NAME
    document = {**report.as_json(), "settings": settings}
    text = json.dumps(document, indent=1, ensure_ascii=True)
    write_text(target, text + "\n")
    return target
