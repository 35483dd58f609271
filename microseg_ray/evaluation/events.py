"""TensorBoard events whose bytes depend on what was found alone: no clock and no host name goes into them."""

from __future__ import annotations

import contextlib
import io
from typing import TYPE_CHECKING, Any

from microseg_ray.files import whole
from microseg_ray.names import text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from microseg_ray.files import Place

__all__ = ["scalars_of", "write_events"]

FILE = "events.out.tfevents.0.evaluation"


def write_events(folder: Place, document: Mapping[str, Any], images: Sequence[tuple[str, Place]]) -> None:
    """Write one event file.

    Args:
        folder: TensorBoard's log folder; an older event file of this name is replaced.
        document: metrics.json, whose numbers become scalars.
        images: PNG files by tag.

    Example:
        >>> import tempfile, pathlib
        >>> with tempfile.TemporaryDirectory() as place:
        ...     write_events(pathlib.Path(place), {"pooled": {"mean_iou": 0.5}}, [])
        ...     [path.name for path in pathlib.Path(place).iterdir()]
        ['events.out.tfevents.0.evaluation']
    """
    from PIL import Image
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.proto.summary_pb2 import Summary
    from tensorboardX.record_writer import RecordWriter

    with whole(folder / FILE) as partial, contextlib.closing(RecordWriter(str(partial))) as writer:
        writer.write(Event(file_version="brain.Event:2").SerializeToString())
        values = [Summary.Value(tag=tag, simple_value=value) for tag, value in scalars_of(document)]
        for tag, path in images:
            content = path.read_bytes()
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
            picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
            values.append(Summary.Value(tag=text(tag), image=picture))
        for value in values:
            writer.write(Event(step=0, summary=Summary(value=[value])).SerializeToString())
        writer.flush()


def scalars_of(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Every number of nested mappings, by its path.

    Example:
        >>> list(scalars_of({"pooled": {"mean_iou": 0.5, "classes": {"pore": {"iou": None}}}, "split": "test"}))
        [('pooled/mean_iou', 0.5)]
    """
    for key, value in document.items():
        if isinstance(value, dict):
            yield from scalars_of(value, f"{prefix}{key}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield f"{prefix}{key}", float(value)
