"""Exports a checkpoint to one file for other programs: ONNX, or a torch.export program.

The exported model takes the pixel values of the micrograph's file and scales them itself if the scaling is a function of
the single pixel (kinds `dtype` and `fixed`). Percentiles, a flat field and CLAHE depend on the micrograph or the tile; with
these, the input is float32 that is already scaled. The metadata in and beside the file say which applies.
"""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import nn

from microseg_ray.errors import MicrosegError, SettingsError
from microseg_ray.files import whole, write_json
from microseg_ray.models import CLASSIFIERS
from microseg_ray.models.card import read_card_and_digest
from microseg_ray.models.checkpoint import load_checkpoint
from microseg_ray.models.folding import fold_norms
from microseg_ray.models.scaling import scale_intensities
from microseg_ray.outputs import Kind, claim

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from microseg_ray.models.card import ModelCard

__all__ = ["METADATA_KEY", "Exported", "export_checkpoint"]

Format = Literal["onnx", "torch"]

METADATA_KEY = "microseg_ray"
"""Key of the metadata in an ONNX file; a torch.export file has the extra file `microseg_ray.json` instead."""

_DTYPES: dict[str, tuple[torch.dtype, tuple[float, float]]] = {
    "uint8": (torch.uint8, (0.0, 255.0)),
    "uint16": (torch.uint16, (0.0, 65535.0)),
    "float32": (torch.float32, (0.0, 1.0)),
}
_SIDES = 4
"""Sides of the example in strides; torch.export treats the sizes 0 and 1 as constants."""
# Another order of additions can change the class of pixels whose logits are nearly equal.
_TIE = 1e-3


@dataclass(frozen=True)
class Exported:
    """Result of an export.

    Attributes:
        path: The file.
        metadata: Content of the `.json` beside it, which is also in the file: class names and colours, stride, scaling,
            input and output.
        largest_difference: Between its logits and the checkpoint's, on noise of two sizes; None if the package that runs
            the file is not installed.
    """

    path: Path
    metadata: dict[str, Any]
    largest_difference: float | None


def export_checkpoint(
    checkpoint: str, output: str, kind: Format = "onnx", dtype: str = "uint8", *, overwrite: bool = False
) -> Exported:
    """Export a checkpoint's model to one file, and compare its predictions with those of the checkpoint.

    The exported model has one input `pixels` (n, c, y, x), y and x any multiples of the stride, and one output `logits`,
    float32 (n, K, y, x); the class of a pixel is the index of the largest logit. A classifier has a fixed size and logits (n, K).

    Args:
        checkpoint: Folder that the train job wrote.
        output: File to write.
        kind: `onnx`, or `torch` for torch.export.
        dtype: Type of the input pixels: `uint8`, `uint16`, `float32`.
        overwrite: Replace an existing file.

    Returns:
        The file, its metadata and the largest difference.

    Raises:
        CheckpointError: The checkpoint cannot be used.
        SettingsError: The file exists, or the extra `export` is not installed.
        MicrosegError: The model cannot be exported, or the file predicts other classes.

    Example:
        >>> export_checkpoint("/nowhere", "model.onnx")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.CheckpointError: /nowhere: no such checkpoint folder; give a folder that the train job ...
    """
    model, card = load_checkpoint(checkpoint)
    path = Path(output)
    if path.exists() and not overwrite:
        raise SettingsError(f"export.output: {output} exists; give another file, or --overwrite")
    claim(path.absolute().parent, "export", dict.fromkeys((path.name, f"{path.name}.json"), Kind.FILE))
    if kind == "onnx":
        _require_onnx()
    limits = _limits(card, dtype)
    metadata = _metadata(card, read_card_and_digest(checkpoint)[1], "float32" if limits is None else dtype, limits)
    pixel_type = torch.float32 if limits is None else _DTYPES[dtype][0]
    ready = _FromPixels(fold_norms(model).requires_grad_(False), limits).eval()
    program = _program(ready, card, pixel_type)
    with whole(path) as partial:
        run = _write_onnx(program, metadata, partial) if kind == "onnx" else _write_torch(program, metadata, partial)
        difference = None if run is None else _compare(ready, run, card, pixel_type, str(path))
    write_json(path.with_name(path.name + ".json"), metadata)
    return Exported(path, metadata, difference)


class _FromPixels(nn.Module):
    """A model preceded by its scaling."""

    def __init__(self, model: nn.Module, limits: tuple[float, float] | None) -> None:
        super().__init__()
        self.model = model
        self.limits = limits

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        scaled = pixels if self.limits is None else scale_intensities(pixels, self.limits)
        logits: torch.Tensor = self.model(scaled)
        return logits


def _limits(card: ModelCard, dtype: str) -> tuple[float, float] | None:
    """The intensities that are scaled to 0 and 1; None if they depend on more than the pixel."""
    scaling = card.scaling
    if scaling.kind == "percentile" or scaling.flat_field != "none" or scaling.clahe is not None:
        return None
    if scaling.kind == "fixed" and scaling.low is not None and scaling.high is not None:
        return scaling.low, scaling.high
    return _DTYPES[dtype][1]


def _metadata(card: ModelCard, digest: str, dtype: str, limits: tuple[float, float] | None) -> dict[str, Any]:
    whole = card.architecture in CLASSIFIERS
    height, width = (card.options["height"], card.options["width"]) if whole else (None, None)
    return {
        "microseg_ray": card.versions.get("microseg_ray", "unknown"),
        "model_digest": digest,
        "architecture": card.architecture,
        "classes": [item.model_dump() for item in card.classes],
        "input": {
            "name": "pixels",
            "axes": "n, c, y, x",
            "dtype": dtype,
            "channels": card.in_channels,
            "values": "as in the micrograph's file" if limits is not None else "scaled as `scaling` says",
            "limits": limits,
            "sides": f"{height} x {width}" if whole else f"multiples of {card.receptive_field.stride}",
        },
        "output": {
            "name": "logits",
            "axes": "n, class" if whole else "n, class, y, x",
            "dtype": "float32",
            "meaning": "the largest is the class; softmax over the classes gives probabilities",
        },
        "stride": card.receptive_field.stride,
        "receptive_field": card.receptive_field.model_dump(mode="json"),
        "scaling": card.scaling.model_dump(mode="json"),
        "pixel_size_um": card.pixel_size_um,
    }


def _example(card: ModelCard, dtype: torch.dtype, sides: tuple[int, int], count: int = 2) -> torch.Tensor:
    """Noise of a valid input size."""
    stride = card.receptive_field.stride
    height, width = (side * stride for side in sides)
    if card.architecture in CLASSIFIERS:
        height, width = card.options["height"], card.options["width"]
    generator = np.random.default_rng(0)
    shape = (count, card.in_channels, height, width)
    if dtype == torch.float32:
        return torch.from_numpy(generator.random(shape, dtype=np.float32))
    name = str(dtype).removeprefix("torch.")
    return torch.from_numpy(generator.integers(0, np.iinfo(name).max + 1, shape).astype(name))


def _program(model: nn.Module, card: ModelCard, dtype: torch.dtype) -> torch.export.ExportedProgram:
    stride = card.receptive_field.stride
    shapes: dict[int, Any] = {0: torch.export.Dim("batch", min=1)}
    if card.architecture not in CLASSIFIERS:
        for axis, name in ((2, "rows"), (3, "columns")):
            side = torch.export.Dim(name, min=1)
            shapes[axis] = side if stride == 1 else stride * side
    try:
        with torch.no_grad():
            example = _example(card, dtype, (_SIDES, _SIDES + 1))
            return torch.export.export(model, (example,), dynamic_shapes=(shapes,), strict=False)
    except Exception as error:
        # torch.export raises its own and many builtin exceptions.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MicrosegError(f"export: {card.architecture} cannot be exported ({reason})") from error


def _write_torch(
    program: torch.export.ExportedProgram, metadata: dict[str, Any], path: Path
) -> Callable[[torch.Tensor], NDArray[np.float32]]:
    # Files, not paths: torch ends the whole process on a path that is not UTF-8.
    with path.open("wb") as file:
        torch.export.save(program, file, extra_files={f"{METADATA_KEY}.json": json.dumps(metadata)})
    with path.open("rb") as written:
        loaded = torch.export.load(written).module()

    def run(pixels: torch.Tensor) -> NDArray[np.float32]:
        with torch.no_grad():
            logits: NDArray[np.float32] = loaded(pixels).numpy()
        return logits

    return run


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401 - only whether it is there
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise SettingsError(
            f"export.format: onnx needs the package {error.name}; pip install 'microseg_ray[export]'"
        ) from error


def _write_onnx(
    program: torch.export.ExportedProgram, metadata: dict[str, Any], path: Path
) -> Callable[[torch.Tensor], NDArray[np.float32]] | None:
    logger = logging.getLogger("torch.onnx")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            # Warnings of the exporter about its own deprecated parts.
            warnings.simplefilter("ignore")
            converted = torch.onnx.export(
                program, input_names=["pixels"], output_names=["logits"], dynamo=True, verbose=False
            )
    except Exception as error:
        # The exporter raises its own and many builtin exceptions.
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MicrosegError(f"export: {metadata['architecture']} cannot be written as ONNX ({reason})") from error
    finally:
        logger.setLevel(before)
    if converted is None:
        raise MicrosegError(f"export: {metadata['architecture']} cannot be written as ONNX")
    converted.model.metadata_props[METADATA_KEY] = json.dumps(metadata)
    converted.save(str(path), external_data=False)
    try:
        import onnxruntime
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

    def run(pixels: torch.Tensor) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = session.run(["logits"], {"pixels": pixels.numpy()})[0]
        return logits

    return run


def _compare(
    model: nn.Module,
    run: Callable[[torch.Tensor], NDArray[np.float32]],
    card: ModelCard,
    dtype: torch.dtype,
    where: str,
) -> float:
    """The largest difference of the logits, on noise of two sizes and batches."""
    difference = 0.0
    for sides, count in (((_SIDES, _SIDES + 1), 2), ((_SIDES + 3, _SIDES - 1), 1)):
        pixels = _example(card, dtype, sides, count)
        with torch.no_grad():
            wanted: NDArray[np.float32] = model(pixels).numpy()
        got = run(pixels)
        if got.shape != wanted.shape:
            raise MicrosegError(f"{where}: gives {got.shape} where the checkpoint gives {wanted.shape}; this is a bug")
        top = np.sort(wanted, axis=1)
        sure = top[:, -1] - top[:, -2] > _TIE if wanted.shape[1] > 1 else np.ones_like(top[:, 0], bool)
        if not np.array_equal(got.argmax(axis=1)[sure], wanted.argmax(axis=1)[sure]):
            raise MicrosegError(f"{where}: predicts other classes than the checkpoint; try another format")
        difference = max(difference, float(np.abs(got - wanted).max()))
    return difference
