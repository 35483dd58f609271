"""Which annotation files a job reads, and the reader of an annotation image."""

from __future__ import annotations

from typing import TYPE_CHECKING

from microseg_ray.annotations.detect import LABEL_MAP, READERS, detect_format, list_annotations
from microseg_ray.annotations.pixels import ColorLabels, IndexLabels, ThresholdLabels
from microseg_ray.annotations.readers.cvat import read_label_map
from microseg_ray.errors import InputError, SettingsError
from microseg_ray.settings.classes import IGNORE_INDEX

if TYPE_CHECKING:
    from microseg_ray.annotations.pixels import Labels
    from microseg_ray.files import Place
    from microseg_ray.settings.annotate import AnnotateSettings

__all__ = ["annotation_files", "open_labels"]


def annotation_files(settings: AnnotateSettings, images: list[Place]) -> tuple[str, list[Place]]:
    """The format and the annotation files of a job.

    Args:
        settings: The job's settings.
        images: Its micrographs, which thresholds are applied to.

    Raises:
        InputError: There are none.
    """
    if settings.annotations is None:
        return "thresholds", images
    files = list_annotations(settings.annotations, settings.format)
    chosen: str = settings.format
    if chosen == "auto":
        chosen = detect_format(files, has_thresholds=bool(settings.thresholds), has_colors=bool(settings.colors))
    if chosen == "cvat_mask":
        # The export also holds the instances of each object, and perhaps the micrographs.
        files = [file for file in files if file.parent.name == "SegmentationClass"] or files
    if chosen not in READERS and settings.annotation_suffix:
        files = [file for file in files if file.stem.endswith(settings.annotation_suffix)]
        if not files:
            reason = f"no file whose stem ends in {settings.annotation_suffix!r}"
            raise InputError(settings.annotations, reason, "check annotate.annotation_suffix")
    return chosen, files


def open_labels(chosen: str, file: Place, settings: AnnotateSettings) -> Labels:
    """The reader of an annotation image.

    Args:
        chosen: "colors", "cvat_mask", "thresholds" or "index".
        file: The image.
        settings: Its rules.

    Raises:
        InputError: It cannot be read, or a label map is missing.
    """
    codes = settings.codes
    other = None if settings.other == "ignore" else codes[settings.other]
    match chosen:
        case "thresholds":
            return ThresholdLabels(file, settings.thresholds, codes, settings.channel, other, settings.source)
        case "colors":
            colors = settings.colors or {item.color.lower(): item.name for item in settings.classes}
            return ColorLabels(file, {color: codes[name] for color, name in colors.items()}, other)
        case "cvat_mask":
            return ColorLabels(file, _label_map(file, settings), other)
        case _:
            numbers = {index - settings.offset: index for index in range(len(settings.classes))}
            numbers.setdefault(IGNORE_INDEX, IGNORE_INDEX)
            named = {_whole(text): codes[name] for text, name in settings.class_values.items()}
            return IndexLabels(file, {**({} if named else numbers), IGNORE_INDEX: IGNORE_INDEX, **named})


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise SettingsError(f"annotate.class_values: {text!r} is no number, and an index image holds numbers") from None


def _label_map(file: Place, settings: AnnotateSettings) -> dict[str, int]:
    for folder in (file.parent, file.parent.parent):
        if (folder / LABEL_MAP).is_file():
            labels = read_label_map(folder / LABEL_MAP)
            codes = settings.codes
            named = {color: settings.class_values.get(label, label) for color, label in labels.items()}
            # CVAT's own background is what nobody labelled, unless a class is called so.
            codes.setdefault("background", settings.unlabelled_code)
            return {color: codes[name] for color, name in named.items() if name in codes}
    raise InputError(file, f"no {LABEL_MAP} beside it or one folder up", "unpack CVAT's whole export")
