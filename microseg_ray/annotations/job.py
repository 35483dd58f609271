"""From annotations to masks: read, pair with images, draw, write, report."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from microseg_ray.annotations.accounting import Met
from microseg_ray.annotations.detect import BY_STEM, READERS
from microseg_ray.annotations.matching import ImageIndex, NoMatchError, RefusedNameError
from microseg_ray.annotations.opening import annotation_files, open_labels
from microseg_ray.annotations.painting import rasterise
from microseg_ray.annotations.regions import Drawing, ReadOptions, Region
from microseg_ray.annotations.report import TABLES, AnnotationReport, MaskLine, holds_masks, write_report
from microseg_ray.annotations.writing import write_mask
from microseg_ray.errors import InputError, SettingsError
from microseg_ray.files import delete_file, lies_in, name_below, place, sole_writer
from microseg_ray.outputs import Kind, claim, drop, settle
from microseg_ray.settings.classes import IGNORE_INDEX
from microseg_ray.sources import listing_root, open_micrograph, survey_files

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from microseg_ray.accounts import NotTaken
    from microseg_ray.files import Place
    from microseg_ray.geometry import Box
    from microseg_ray.settings.annotate import AnnotateSettings

__all__ = ["annotate"]

_SHOWN = 5


def annotate(
    settings: AnnotateSettings, progress: Callable[[str, int, int], None] = lambda *_: None
) -> AnnotationReport:
    """Write a mask for every annotated image, and report.json.

    Masks are named after their images, in the same sub-folders. What cannot be used is left out and reported.

    Args:
        settings: The job's settings.
        progress: Callback, called with (what, done, total).

    Returns:
        The report, as it was written.

    Raises:
        SettingsError: The output would overwrite something.
        RunMismatchError: Another job is writing into the output, or something there is not ours.
        InputError: No images, no annotations, or none of the annotation files can be read.

    Example:
        >>> import pathlib, tempfile
        >>> import numpy as np
        >>> from PIL import Image
        >>> from microseg_ray.settings.annotate import AnnotateSettings
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Image.fromarray(np.array([[10, 200]], np.uint8)).save(pathlib.Path(folder) / "a.png")
        ...     rules = [{"name": "dark", "below": 100}, {"name": "bright", "at_least": 100}]
        ...     report = annotate(AnnotateSettings(
        ...         images=f"{folder}/*.png", output=f"{folder}/masks", classes=["dark", "bright"],
        ...         format="thresholds", thresholds=rules))
        >>> report.fractions
        (0.5, 0.5)
    """
    if settings.format == "tfrecord":
        from microseg_ray.annotations.records import unpack_records

        return unpack_records(settings, progress)
    listing, root = survey_files(settings.images or "", outputs=False), listing_root(settings.images or "")
    images = listing.files
    chosen, files = annotation_files(settings, images)
    beside: NotTaken = ()
    if chosen not in {*READERS, "thresholds"}:
        # Annotations may be in the folder of the micrographs; they are not micrographs.
        alone = [image for image in images if image not in set(files)] or images
        beside = tuple((image.name, "annotation") for image in images if image not in set(alone))
        images = alone
    names = {str(image): name_below(image, root) for image in images}
    met = Met(names, (*listing.not_taken, *beside), [] if settings.annotations is None else files)
    report = AnnotationReport(chosen, tuple(item.name for item in settings.classes), len(images))
    output = place(settings.output).absolute()
    stems = _mask_stems(settings, images, root, output, report)
    _protect(settings, output, [*images, *files])
    with sole_writer(output):
        # Again: another job may have come to its end meanwhile.
        _protect(settings, output, [*images, *files])
        _write_masks(_Work(settings, report, root, output, stems, met), chosen, files, progress)
    return report


def _write_masks(work: _Work, chosen: str, files: list[Place], progress: Callable[[str, int, int], None]) -> None:
    """All that is written, under the lock of the output."""
    settings, report, output = work.settings, work.report, work.output
    masks = [name_below(stem, output) + suffix for stem in work.stems.values() for suffix in (".png", ".tif")]
    claim(output, "annotate", dict.fromkeys((*TABLES, *masks), Kind.FILE))
    # Masks of an earlier run that this one does not write again would be taken for its own.
    drop(output, "annotate")
    if chosen in READERS:
        work.draw(chosen, files, progress)
    else:
        work.convert(chosen, files, progress)
    if not report.masks and not report.failures:
        # An output without a mask is never a success.
        left_out = ", ".join(f"{count} {name}" for name, count in report.problems.items()) or "no annotations"
        report.failures.append((settings.annotations or settings.images or "", "annotation", f"no mask: {left_out}"))
    report.failures.sort()
    report.accounting = work.met.accounts(report, drawn=chosen in READERS)
    write_report(output, report, settings.resolved())
    settle(output, "annotate")


class _Work:
    """One job, which fills its report as it goes."""

    def __init__(
        self,
        settings: AnnotateSettings,
        report: AnnotationReport,
        root: Place,
        output: Place,
        stems: dict[Place, Place],
        met: Met,
    ) -> None:
        self.met = met
        self.settings, self.report, self.root, self.output, self.stems = settings, report, root, output, stems
        self._known = {*settings.class_values, *settings.codes}
        self.index = ImageIndex(list(stems), root, settings.image_suffix)

    def draw(self, chosen: str, files: list[Place], progress: Callable[[str, int, int], None]) -> None:
        """Masks of drawn regions."""
        drawings: dict[Place, list[Drawing]] = defaultdict(list)
        known = frozenset({*self.settings.class_values, *self.report.classes})
        options = ReadOptions(self.settings.attribute, self.settings.line_width, self.settings.coordinates, known)
        for file in files:
            try:
                found = READERS[chosen](file, options)
            except InputError as error:
                if len(files) == 1:
                    raise
                self._fail(file, "annotation", error)
                continue
            for drawing in found:
                image = self._image_of(drawing, file if chosen in BY_STEM else None)
                self.met.note(file, drawing, found=image is not None)
                if image is not None:
                    drawings[image].append(drawing)
        unread = [failure for failure in self.report.failures if failure[1] == "annotation"]
        if len(unread) == len(files):
            reason = f"none of the {len(files)} annotation files can be read, as {unread[0][0]}: {unread[0][2]}"
            raise InputError(self.settings.annotations, reason, "check annotate.format")
        for done, image in enumerate(self.stems):
            progress("masks", done, len(self.stems))
            if image in drawings:
                self._try(image, partial(self._draw_one, image, drawings[image]))
            else:
                self.report.images_without_annotation.append(self._name(image))
                if self.settings.empty == "unlabelled":
                    self._try(image, partial(self._draw_one, image, []))
        progress("masks", len(self.stems), len(self.stems))

    def convert(self, chosen: str, files: list[Place], progress: Callable[[str, int, int], None]) -> None:
        """Masks of annotation images."""
        partners: dict[Place, list[Place]] = defaultdict(list)
        where = self.settings.annotations
        root = self.root if where is None else listing_root(where)
        for file in files:
            try:
                image = self.index.beside(file, root, self.settings.annotation_suffix) if where else file
                partners[image].append(file)
                self.met.matched.add(file)
            except NoMatchError as error:
                self.report.annotations_without_image.append((str(file), str(error)))
        for done, image in enumerate(self.stems):
            progress("masks", done, len(self.stems))
            match partners.get(image, []):
                case []:
                    self.report.images_without_annotation.append(self._name(image))
                case [file]:
                    self._try(image, partial(self._convert_one, chosen, image, file))
                case several:
                    reason = f"two annotations fit: {several[0]} and {several[1]}; remove one, or set annotation_suffix"
                    self.report.failures.append((str(image), "pair", reason))
        progress("masks", len(self.stems), len(self.stems))

    def _image_of(self, drawing: Drawing, file: Place | None) -> Place | None:
        try:
            if file is None:
                return self.index.named(drawing.image)
            root = listing_root(self.settings.annotations or "")
            return self.index.beside(file, root, self.settings.annotation_suffix)
        except RefusedNameError as error:
            self.report.refused_names.append((drawing.where, str(error)))
        except NoMatchError as error:
            self.report.annotations_without_image.append((drawing.where, str(error)))
        return None

    def _draw_one(self, image: Place, drawings: list[Drawing]) -> None:
        with open_micrograph(image, self.settings.source) as micrograph:
            shape, parts = micrograph.info.shape, micrograph.info.parts
        for drawing in drawings:
            if drawing.size is not None and drawing.size != shape:
                reason = f"{drawing.where} is for {drawing.size} px (height, width), the image has {shape}"
                raise InputError(image, reason, "annotate the image itself, or scale it back to that size")
        # In a file of one page the place in the stack is the channel.
        page = None if parts.pages == 1 and len(parts.channel_names) > 1 else parts.page
        regions = self._named_regions(drawings, shape, page)
        if not regions:
            self._require_empty(image, drawings, page)
        if not regions and drawings:
            self.report.images_without_regions.append(self._name(image))
            if self.settings.empty == "skip":
                return
        codes, fill = self.settings.codes, self.settings.unlabelled_code
        priority = self.settings.priority

        def read(box: Box) -> NDArray[np.uint8]:
            return rasterise(regions, shape, codes, priority=priority, fill=fill, box=box)

        self._write(image, shape, read, len(regions))

    def _require_empty(self, image: Place, drawings: list[Drawing], page: int | None) -> None:
        """Refuse an image whose annotation has regions, where none of them was drawn: its mask would be all background."""
        regions = [region for drawing in drawings for region in drawing.regions]
        others = sorted({region.page for region in regions if _elsewhere(region, page) and region.page is not None})
        unknown = sorted({region.value for region in regions if not _elsewhere(region, page)} - self._known)
        skipped = [reason for drawing in drawings for _, reason in drawing.skipped]
        number = len(regions) + len(skipped)
        if not number:
            return
        reasons, advice = [], "correct the annotation"
        if skipped:
            reasons.append(f"{len(skipped)} cannot be drawn, such as: {skipped[0]}")
        if others:
            reasons.append(f"page {page} is read, and they are on {', '.join(map(str, others[:_SHOWN]))}")
            advice = f"give --source.page {others[0]}"
        if unknown and self.settings.default_class is None:
            reasons.append(f"their values are no classes ({', '.join(map(repr, unknown[:_SHOWN]))})")
            advice = "map them with --class_values, or all of them to one class with --default_class NAME"
        if not reasons:
            reasons.append("all lie outside the image")
        raise InputError(image, f"none of its {number} regions was drawn: {'; '.join(reasons)}", advice)

    def _named_regions(self, drawings: list[Drawing], shape: tuple[int, int], page: int | None) -> list[Region]:
        """Regions by class name; the rest goes to the report."""
        report, codes, default = self.report, self.settings.codes, self.settings.default_class
        regions: list[Region] = []
        for drawing in drawings:
            report.skipped_regions += drawing.skipped
            report.ignored_shapes.update(drawing.ignored)
            for region in drawing.regions:
                if _elsewhere(region, page):
                    reason = f"on page {region.page}, and page {page} is read (--source.page)"
                    report.other_pages.append((region.where, reason))
                    continue
                name = self.settings.class_values.get(region.value, region.value)
                if name not in codes and default is not None:
                    report.defaulted_classes[region.value] += 1
                    name = default
                if name not in codes:
                    report.unknown_classes[region.value] += 1
                    continue
                y0, x0, y1, x1 = region.shape.extent
                if y1 < 0 or x1 < 0 or y0 >= shape[0] or x0 >= shape[1]:
                    report.skipped_regions.append((region.where, "it lies wholly outside the image"))
                    continue
                # A pixel's width outside is a border drawn along the image's edge.
                if y0 < -1 or x0 < -1 or y1 > shape[0] or x1 > shape[1]:
                    report.clipped_regions.append(region.where)
                report.regions[name] += 1
                regions.append(Region(name, region.shape, region.where))
        return regions

    def _convert_one(self, chosen: str, image: Place, file: Place) -> None:
        with open_micrograph(image, self.settings.source) as micrograph:
            shape = micrograph.info.shape
        labels = open_labels(chosen, file, self.settings)
        try:
            if labels.shape != shape:
                reason = f"its annotation {file} has {labels.shape} px (height, width), the image has {shape}"
                raise InputError(image, reason, "annotate the image itself, or scale it back to that size")
            path = self._write(image, shape, labels.read, None)
        finally:
            labels.close()
        self.report.unmatched_pixels.update(labels.unmatched)
        if sum(labels.unmatched.values()) >= shape[0] * shape[1]:
            delete_file(path)
            self.report.masks.pop()
            found = ", ".join(name for name, _ in labels.unmatched.most_common(_SHOWN))
            reason = f"no pixel of its annotation {file} fits a rule; it holds {found}"
            raise InputError(image, reason, "check colors, thresholds, offset or class_values, or set other")

    def _write(
        self, image: Place, shape: tuple[int, int], read: Callable[[Box], NDArray[np.uint8]], regions: int | None
    ) -> Place:
        path, counts = write_mask(self.stems[image], shape, read)
        pixels = tuple(int(count) for count in counts[: len(self.report.classes)])
        name = name_below(path, self.output)
        self.report.masks.append(MaskLine(self._name(image), name, regions, pixels, int(counts[IGNORE_INDEX])))
        return path

    def _try(self, image: Place, step: Callable[[], None]) -> None:
        try:
            step()
        except InputError as error:
            self._fail(image, "mask", error)

    def _fail(self, path: Place, stage: str, error: InputError) -> None:
        self.report.failures.append((str(path), stage, str(error).removeprefix(f"{path}: ")))

    def _name(self, image: Place) -> str:
        return name_below(image, self.root)


def _elsewhere(region: Region, page: int | None) -> bool:
    """Whether a region was drawn on another page than the one that is read; page None takes all."""
    return page is not None and region.page is not None and region.page != page


def _mask_stems(
    settings: AnnotateSettings, images: list[Place], root: Place, output: Place, report: AnnotationReport
) -> dict[Place, Place]:
    """Where each image's mask goes, without a suffix; images that would share one are set aside."""
    by_stem: dict[Place, list[Place]] = defaultdict(list)
    for image in images:
        stem = image.stem.removesuffix(settings.image_suffix) + settings.mask_suffix
        by_stem[output / PurePosixPath(name_below(image, root)).parent / stem].append(image)
    for several in by_stem.values():
        for image in several if len(several) > 1 else ():
            other = next(one for one in several if one != image)
            report.failures.append(
                (str(image), "pair", f"its mask would be named as that of {other}; rename one of them")
            )
    return {several[0]: stem for stem, several in by_stem.items() if len(several) == 1}


def _protect(settings: AnnotateSettings, output: Place, inputs: list[Place]) -> None:
    """Refuse to write over images, annotations, or masks that somebody may have corrected by hand."""
    if any(output == file.parent or output in file.parents for file in inputs):
        raise SettingsError(f"annotate.output: {output} holds the images or the annotations; give a folder of its own")
    images = place(settings.images or "").absolute()
    if images.is_dir() and lies_in(output, images):
        raise SettingsError(
            f"annotate.output: {output} lies in the folder of images, so masks would be taken for images next time; "
            "give another folder, or name the images by a glob"
        )
    if not holds_masks(output):
        return
    if not settings.overwrite:
        raise SettingsError(f"annotate.output: {output} is not empty; give another folder, or --overwrite")
