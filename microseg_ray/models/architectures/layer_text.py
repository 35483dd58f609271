"""Architecture files of DefectSegNet: one line per layer, `key:value` pairs separated by `|`. This module does not import torch.

    type:convolution|kernel:3,3|filters:16|strides:1,1|padding:same|activation function:relu|input tensors:3,4

`type` is `convolution`, `convolution transpose`, `max pool`, `dense` or `dropout`; `input tensors` are earlier layers, whose
maps are concatenated in that order: 0 is the image, 1 the layer of the first line. `activation function` is `relu`,
`tanh`, `sigmoid` or `identity`; poolings and transposed convolutions ignore it. Convolutions use symmetric
padding, so that `strides:1,1` keeps the size. Dense layers have a `size` and act on single pixels; dropout layers may have a
`rate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from math import lcm

from microseg_ray.errors import InputError

__all__ = ["LayerSpec", "read_layers", "reference_layers", "stride_of_layers"]

_KEYS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    "convolution": (frozenset({"kernel", "filters"}), frozenset({"strides", "padding", "activation function"})),
    "convolution transpose": (
        frozenset({"kernel", "filters", "strides"}),
        frozenset({"padding", "activation function"}),
    ),
    "max pool": (frozenset({"kernel", "strides"}), frozenset({"padding", "activation function"})),
    "dense": (frozenset({"size"}), frozenset({"activation function"})),
    "dropout": (frozenset(), frozenset({"rate", "activation function"})),
}
"""Required and optional keys of each type, besides `type` and `input tensors`."""

_ACTIVATIONS = ("relu", "tanh", "sigmoid", "identity")
_MAX_NUMBER = 1 << 14


@dataclass(frozen=True)
class LayerSpec:
    """One line of an architecture file.

    Attributes:
        kind: Its `type`.
        inputs: Input tensors; 0 is the image.
        filters: Output channels; 0 for as many as input channels.
        kernel: Height and width in pixels.
        strides: Vertical and horizontal stride in pixels.
        activation: Activation function; `identity` for poolings and transposed convolutions.
        rate: Dropout rate; None if the file has none.
    """

    kind: str
    inputs: tuple[int, ...]
    filters: int = 0
    kernel: tuple[int, int] = (1, 1)
    strides: tuple[int, int] = (1, 1)
    activation: str = "identity"
    rate: float | None = None


def reference_layers() -> str:
    """The architecture file of the original DefectSegNet.

    Example:
        >>> len(reference_layers().splitlines())
        20
    """
    return files("microseg_ray.models.architectures").joinpath("defectsegnet.txt").read_text(encoding="utf-8")


def read_layers(text: str, where: str = "architecture") -> tuple[LayerSpec, ...]:
    """Parse an architecture file.

    Args:
        text: Content of the file; blank lines are ignored.
        where: Name of the file in error messages.

    Raises:
        InputError: A line cannot be parsed, or concatenates maps of different sizes; the message names the line.

    Example:
        >>> read_layers("type:dense|size:4|activation function:tanh|input tensors:0")[0].filters
        4
        >>> read_layers("type:dens|size:4|input tensors:0")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.InputError: architecture: line 1: unknown type 'dens'; known are convolution, ...
    """
    layers: list[LayerSpec] = []
    # Scale of each tensor relative to the image: products of the strides (down, up).
    scales: list[tuple[int, int]] = [(1, 1)]
    number = 0
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        place = f"{where}: line {number}"
        spec = _read_line(line, place, len(layers) + 1)
        found = {scales[index] for index in spec.inputs}
        if len(found) > 1:
            raise InputError(
                place, f"joins tensors of different sizes ({_sizes(spec, scales)})", "pool or unpool them alike"
            )
        scales.append(_scaled(spec, found.pop(), place))
        layers.append(spec)
    if not layers:
        raise InputError(where, "holds no layer", "give a line `type:...|...` for each layer")
    last = f"{where}: line {number}"
    if layers[-1].kind not in {"convolution", "dense"}:
        raise InputError(last, f"the last layer is a {layers[-1].kind}", "end with a convolution or a dense layer")
    if scales[-1] != (1, 1):
        raise InputError(last, "the last layer is not as large as the image", "undo every stride by a transposed one")
    return tuple(layers)


def stride_of_layers(layers: tuple[LayerSpec, ...]) -> int:
    """The stride: the sides of an image must be multiples of it.

    Example:
        >>> stride_of_layers(read_layers(reference_layers()))
        8
    """
    scales: list[tuple[int, int]] = [(1, 1)]
    stride = 1
    for spec in layers:
        down, right = scales[spec.inputs[0]]
        if spec.kind == "convolution transpose":
            scales.append((down // spec.strides[0], right // spec.strides[1]))
        else:
            scales.append((down * spec.strides[0], right * spec.strides[1]))
        stride = lcm(stride, *scales[-1])
    return stride


def _read_line(line: str, place: str, own: int) -> LayerSpec:
    values = _pairs(line, place)
    kind = values.pop("type", "")
    if kind not in _KEYS:
        raise InputError(place, f"unknown type {kind!r}", f"known are {', '.join(_KEYS)}")
    needed, allowed = _KEYS[kind]
    for key in sorted(needed | {"input tensors"}):
        if key not in values:
            raise InputError(place, f"a {kind} needs the key {key!r}", "add it")
    for key in values:
        if key not in needed | allowed | {"input tensors"}:
            raise InputError(place, f"a {kind} has no key {key!r}", f"known are {', '.join(sorted(needed | allowed))}")
    activation = values.get("activation function", "identity")
    if activation not in _ACTIVATIONS:
        raise InputError(place, f"unknown activation function {activation!r}", f"known are {', '.join(_ACTIVATIONS)}")
    inputs = tuple(_numbers(values["input tensors"], place, "input tensors", least=0))
    late = [index for index in inputs if index >= own]
    if late:
        raise InputError(
            place, f"input tensor {late[0]} comes later: this line makes tensor {own}", "name earlier ones"
        )
    size = values.get("filters", values.get("size"))
    spec = LayerSpec(
        kind=kind,
        inputs=inputs,
        filters=0 if size is None else _numbers(size, place, "filters" if "filters" in values else "size", count=1)[0],
        kernel=_pair(values.get("kernel", "1"), place, "kernel"),
        strides=_pair(values.get("strides", "1"), place, "strides"),
        activation=activation if kind in {"convolution", "dense"} else "identity",
        rate=_rate(values["rate"], place) if "rate" in values else None,
    )
    if kind in {"convolution transpose", "max pool"} and spec.kernel != spec.strides:
        raise InputError(place, f"a {kind} of kernel {spec.kernel} and strides {spec.strides}", "make the two equal")
    return spec


def _pairs(line: str, place: str) -> dict[str, str]:
    values: dict[str, str] = {}
    for part in line.strip().split("|"):
        key, colon, value = (piece.strip() for piece in part.partition(":"))
        if not (key and colon and value):
            raise InputError(place, f"{part!r} is not of the form key:value", "part the pairs by |")
        if key in values:
            raise InputError(place, f"the key {key!r} is there twice", "keep one of them")
        values[key] = value
    return values


def _numbers(text: str, place: str, key: str, *, least: int = 1, count: int | None = None) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if (
        not numbers
        or (count is not None and len(numbers) != count)
        or not all(least <= n <= _MAX_NUMBER for n in numbers)
    ):
        raise InputError(place, f"{key}:{text} is not understood", f"give whole numbers from {least}, parted by commas")
    return numbers


def _pair(text: str, place: str, key: str) -> tuple[int, int]:
    numbers = _numbers(text, place, key)
    if len(numbers) > 2:
        raise InputError(place, f"{key}:{text} has {len(numbers)} numbers", "give one, or two: height, width")
    return numbers[0], numbers[-1]


def _rate(text: str, place: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = -1.0
    if not 0 <= rate < 1:
        raise InputError(place, f"rate:{text} is not understood", "give a number from 0 to below 1")
    return rate


def _scaled(spec: LayerSpec, scale: tuple[int, int], place: str) -> tuple[int, int]:
    (down, right), (dy, dx) = scale, spec.strides
    if spec.kind != "convolution transpose":
        return down * dy, right * dx
    if down % dy or right % dx:
        raise InputError(place, "makes maps larger than the image", "use as many poolings as transposed convolutions")
    return down // dy, right // dx


def _sizes(spec: LayerSpec, scales: list[tuple[int, int]]) -> str:
    return ", ".join(f"{index}: 1/{scales[index][0]}" for index in spec.inputs)
