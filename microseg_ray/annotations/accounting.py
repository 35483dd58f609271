"""What became of the images, annotation files and regions of an annotate job."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from microseg_ray.accounts import Account, counted

if TYPE_CHECKING:
    from microseg_ray.accounts import NotTaken
    from microseg_ray.annotations.regions import Drawing
    from microseg_ray.annotations.report import AnnotationReport
    from microseg_ray.files import Place

__all__ = ["Met"]


@dataclass
class Met:
    """What a job listed and read, noted as it goes.

    Attributes:
        images: All images by their path, with their names.
        not_taken: (name, reason) of files beside the images.
        files: Annotation files.
        matched: Annotation files that belong to an image.
        regions: Regions in them, those without an area included.
        homeless: Regions of images that are not here.
    """

    images: dict[str, str]
    not_taken: NotTaken = ()
    files: list[Place] = field(default_factory=list)
    matched: set[Place] = field(default_factory=set)
    regions: int = 0
    homeless: int = 0

    def note(self, file: Place, drawing: Drawing, *, found: bool) -> None:
        """One drawing of an annotation file, and whether its image is here."""
        number = len(drawing.regions) + len(drawing.skipped) + sum(drawing.ignored.values())
        self.regions += number
        if found:
            self.matched.add(file)
        else:
            self.homeless += number

    def accounts(self, report: AnnotationReport, *, drawn: bool) -> tuple[Account, ...]:
        """The accounts of a finished report.

        Args:
            report: Masks and failures.
            drawn: Whether annotations are drawn regions, and not images.
        """
        used = {mask.image for mask in report.masks}
        failed = {path for path, _, _ in report.failures}
        aside = {name for path, name in self.images.items() if path in failed} - used
        bare = set(report.images_without_regions)
        rest = sorted(set(self.images.values()) - used - aside)
        idle = tuple((name, "without regions" if name in bare else "without annotation") for name in rest)
        seen = len(self.images) + len(self.not_taken)
        files = Account("files", seen, len(used), len(aside), counted((*self.not_taken, *idle)))
        if not self.files:
            return (files,)
        broken = {file for file in self.files if str(file) in failed} - self.matched
        others = [(file.name, "of no image here") for file in self.files if file not in self.matched | broken]
        matched = len(self.matched & set(self.files))
        annotations = Account("annotations", len(self.files), matched, len(broken), counted(others))
        if not drawn:
            return files, annotations
        reasons = {
            "of unknown class": sum(report.unknown_classes.values()),
            "of other pages (source.page)": len(report.other_pages),
            "without an area": sum(report.ignored_shapes.values()),
            "of no image here": self.homeless,
        }
        reasons = {why: count for why, count in reasons.items() if count}
        painted = sum(mask.regions or 0 for mask in report.masks)
        rest_of = self.regions - painted - sum(reasons.values())
        return files, annotations, Account("regions", self.regions, painted, rest_of, reasons)
