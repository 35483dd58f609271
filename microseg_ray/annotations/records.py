"""TFRecords of the earlier DeepLab code (MudrockNet): images and masks are unpacked into files.

Each record is a `tf.train.Example` with six keys: image/encoded (the bytes of a JPEG), image/format, image/height,
image/width, label/encoded (the bytes of a PNG of class indices) and label/format. It holds no file name, so record 7 of
`voc_train.record` becomes `voc_train-00007`.
"""

from __future__ import annotations

import struct
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from microseg_ray.accounts import Account
from microseg_ray.annotations.pixels import IndexLabels
from microseg_ray.annotations.report import TABLES, AnnotationReport, MaskLine, holds_masks, write_report
from microseg_ray.annotations.writing import write_mask
from microseg_ray.errors import InputError, SettingsError
from microseg_ray.files import name_below, place, sole_writer, whole
from microseg_ray.outputs import Kind, claim, drop, settle
from microseg_ray.settings.classes import IGNORE_INDEX
from microseg_ray.sources import list_files, open_micrograph
from microseg_ray.sources.extras import required

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

    from microseg_ray.files import Place
    from microseg_ray.settings.annotate import AnnotateSettings

__all__ = ["read_records", "unpack_records"]

_SUFFIXES = (".record", ".tfrecord", ".tfrecords")
_IMAGES = {"jpeg": ".jpg", "jpg": ".jpg", "png": ".png"}
_NUMBERS, _BYTES = ("image/height", "image/width"), ("image/encoded", "label/encoded")
_MASK_DELTA = 0xA282EAD8
_MAX_BYTES = 1 << 31


def unpack_records(settings: AnnotateSettings, progress: Callable[[str, int, int], None]) -> AnnotationReport:
    """Write `images/NAME.jpg`, the bytes as they are stored, and `masks/NAME.png` for every good record, and report.json.

    Args:
        settings: The job's settings; `annotations` is a file, a folder or a glob of records.
        progress: Callback, called with (what, done, total) in files.

    Returns:
        The report; a record that cannot be used is a failure of it, with its number and the reason.

    Raises:
        SettingsError: The output is not empty.
        InputError: There are no records, or the extra `tfrecord` is not installed.
    """
    files = list_files(settings.annotations or "", _SUFFIXES)
    output = place(settings.output).absolute()
    _refuse_masks(output, settings)
    with sole_writer(output):
        # Again: another job may have come to its end meanwhile.
        _refuse_masks(output, settings)
        return _unpack(settings, files, output, progress)


def _refuse_masks(output: Place, settings: AnnotateSettings) -> None:
    if holds_masks(output) and not settings.overwrite:
        raise SettingsError(f"annotate.output: {output} is not empty; give another folder, or --overwrite")


def _unpack(
    settings: AnnotateSettings, files: list[Place], output: Place, progress: Callable[[str, int, int], None]
) -> AnnotationReport:
    report = AnnotationReport("tfrecord", tuple(item.name for item in settings.classes))
    claim(output, "annotate", dict.fromkeys(TABLES, Kind.FILE))
    drop(output, "annotate")
    for done, file in enumerate(files):
        progress("records", done, len(files))
        number = -1
        try:
            for number, content in enumerate(read_records(file)):
                report.images += 1
                name = f"{file.stem}-{number:05d}"
                try:
                    _unpack_one(content, name, output, settings, report)
                except InputError as error:
                    report.failures.append((f"{file}, record {number}", "record", str(error)))
        except InputError as error:
            # Nothing says where the next record begins.
            reason = f"record {number + 1} and what follows it: {str(error).removeprefix(f'{file}: ')}"
            report.failures.append((str(file), "record", reason))
    progress("records", len(files), len(files))
    if not report.masks and not report.failures:
        report.failures.append((settings.annotations or "", "record", "no mask: the files hold no records"))
    broken = sum(stage == "record" and ", record " in path for path, stage, _ in report.failures)
    report.accounting = (Account("records", report.images, len(report.masks), broken),)
    write_report(output, report, settings.resolved())
    settle(output, "annotate")
    return report


def read_records(path: Place) -> Iterator[dict[str, Any]]:
    """The records of a file, each as its keys and values: bytes, or a list of numbers.

    Args:
        path: Records without compression.

    Raises:
        InputError: A record is cut short, its checksum is wrong, or it is no Example.
    """
    crc32c = required(str(path), "TFRecord", "crc32c", "tfrecord")
    messages = required(str(path), "TFRecord", "tfrecord.example_pb2", "tfrecord")
    with path.open("rb") as file:
        while True:
            head = file.read(12)
            if not head:
                return
            content = _record(path, file, head, crc32c.crc32c)
            example = messages.Example()
            try:
                example.ParseFromString(content)
            except Exception as error:
                raise InputError(path, f"no tf.train.Example ({error})", "make the records again") from error
            yield {key: _value(feature) for key, feature in example.features.feature.items()}


def _record(path: Place, file: IO[bytes], head: bytes, checksum: Callable[[bytes], int]) -> bytes:
    """The bytes of one record: length, its checksum, content, its checksum."""
    damaged = partial(InputError, path, advice="copy the file again, or make the records again")
    if len(head) < 12:
        raise damaged(f"cut short after {len(head)} of 12 bytes of a header")
    length, stated = struct.unpack("<QI", head)
    if _masked(checksum(head[:8])) != stated:
        raise damaged(
            "the checksum of a length is wrong; the file is damaged or no TFRecord (gzip must be unpacked first)"
        )
    if length > _MAX_BYTES:
        raise damaged(f"a record of {length} bytes, more than the {_MAX_BYTES} that are read")
    content, tail = file.read(length), file.read(4)
    if len(content) < length or len(tail) < 4:
        raise damaged(f"cut short: {len(content)} of {length} bytes of a record")
    if _masked(checksum(content)) != struct.unpack("<I", tail)[0]:
        raise damaged("the checksum of a record is wrong")
    return content


def _masked(value: int) -> int:
    """The checksum as TFRecords store it.

    Example:
        >>> _masked(0) == 0xA282EAD8
        True
    """
    return (((value >> 15) | (value << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def _value(feature: Any) -> bytes | list[float]:
    """The value of one key: the first of its bytes, or all of its numbers."""
    if feature.HasField("bytes_list"):
        return bytes(feature.bytes_list.value[0]) if feature.bytes_list.value else b""
    return list(feature.int64_list.value) or list(feature.float_list.value)


def _unpack_one(
    content: dict[str, Any], name: str, output: Place, settings: AnnotateSettings, report: AnnotationReport
) -> None:
    """One record into an image and a mask, after both were found to be good and of one size."""
    suffix, shape = _checked(content, name)
    targets = {f"images/{name}{suffix}": Kind.FILE, f"masks/{name}.png": Kind.FILE}
    with tempfile.TemporaryDirectory(prefix="microseg") as folder:
        image, label = Path(folder) / f"{name}{suffix}", Path(folder) / f"{name}_label.png"
        image.write_bytes(content["image/encoded"])
        label.write_bytes(content["label/encoded"])
        with open_micrograph(image) as micrograph:
            found = micrograph.info.shape
        numbers = {index - settings.offset: index for index in range(len(settings.classes))}
        labels = IndexLabels(label, {**numbers, IGNORE_INDEX: IGNORE_INDEX})
        try:
            if not found == shape == labels.shape:
                reason = (
                    f"the record states {shape} px (height, width), its image has {found}, its label {labels.shape}"
                )
                raise InputError(name, reason, "make the record again")
            claim(output, "annotate", targets)
            (output / "masks").mkdir(exist_ok=True)
            path, counts = write_mask(output / "masks" / name, shape, labels.read)
        finally:
            labels.close()
    (output / "images").mkdir(exist_ok=True)
    with whole(output / "images" / f"{name}{suffix}") as partly:
        partly.write_bytes(content["image/encoded"])
    report.unmatched_pixels.update(labels.unmatched)
    pixels = tuple(int(count) for count in counts[: len(report.classes)])
    mask = name_below(path, output)
    report.masks.append(MaskLine(f"images/{name}{suffix}", mask, None, pixels, int(counts[IGNORE_INDEX])))


def _checked(content: dict[str, Any], name: str) -> tuple[str, tuple[int, int]]:
    """The suffix and the stated (height, width) of a record that has its six keys.

    Raises:
        InputError: A key is missing, or a value is of another kind.
    """
    wanted = (*_NUMBERS, *_BYTES, "image/format", "label/format")
    missing = [key for key in wanted if not content.get(key)]
    if missing:
        raise InputError(
            name, f"it lacks {', '.join(missing)}", "records need image/ and label/ encoded and format, height, width"
        )
    wrong = [key for key in wanted if isinstance(content[key], bytes) == (key in _NUMBERS)]
    if wrong:
        raise InputError(name, f"{', '.join(wrong)}: a value of another kind", "make the record again")
    formats = [content[key].decode("ascii", "replace").lower() for key in ("image/format", "label/format")]
    if formats[0] not in _IMAGES or formats[1] != "png":
        raise InputError(
            name, f"an image in {formats[0]} and a label in {formats[1]}", "images are JPEG or PNG, labels PNG"
        )
    return _IMAGES[formats[0]], (int(content["image/height"][0]), int(content["image/width"][0]))
