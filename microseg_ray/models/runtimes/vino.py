"""The OpenVINO runtime: a module becomes a graph of fixed shapes for this CPU, with one stream and the job's threads.

OpenVINO is not told of inputs that are NaN: its ReLU makes 0 of them. Whoever gives it pixels checks them first.
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from microseg_ray.errors import RuntimeUnfitError
from microseg_ray.models.largest import LargestClass
from microseg_ray.models.runtimes.base import check_inputs
from microseg_ray.models.runtimes.buffers import Buffers
from microseg_ray.models.runtimes.nodes import largest_class, written
from microseg_ray.models.runtimes.package import core, openvino_package, precision_here
from microseg_ray.models.runtimes.writing import Writable
from microseg_ray.versions import version

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from microseg_ray.models.runtimes.base import Precision

__all__ = ["Graph", "OpenVinoRuntime"]

# torch types that numpy lacks, or that torch.export lacks: the type of the same size by which their bytes are seen.
_SEEN_AS = {torch.bfloat16: torch.int16, torch.uint16: torch.int16}
_HINTS: dict[Precision, str] = {"bf16": "bf16", "fp32": "f32"}


class OpenVinoRuntime:
    """Compiles modules with OpenVINO for the CPU.

    Args:
        precision: `bf16` or `fp32`; `bf16` becomes `fp32` on a processor without bf16 units, as the attribute says.
        threads: Threads of each network; None: as many as torch uses.

    Raises:
        ImportError: OpenVINO is not installed.
        ValueError: Unknown precision or fewer than one thread.
    """

    name = "openvino"

    def __init__(self, precision: Precision = "bf16", threads: int | None = None) -> None:
        if precision not in _HINTS:
            raise ValueError(f"precision {precision!r} is unknown; known are bf16, fp32")
        if threads is not None and threads < 1:
            raise ValueError(f"threads {threads} is not possible; it must be at least 1")
        self.version = version("openvino")
        self.threads = threads or torch.get_num_threads()
        self.precision: Precision = precision_here(precision)

    def compile(
        self, module: nn.Module, examples: Sequence[Tensor], *, exact: bool = False, buffers: Buffers | None = None
    ) -> Graph:
        """As `Runtime.compile`."""
        if isinstance(module, LargestClass):
            with self._unfit():
                model = largest_class(examples[0].shape)
        elif isinstance(module, Writable):
            with self._unfit():
                model = written(module, examples, lambda part, values: _converted(part, values, None))
        else:
            model = self.convert(module, examples)
        return self._compiled(model, examples, buffers or Buffers(2), exact=exact)

    def convert(self, module: nn.Module, examples: Sequence[Tensor], shapes: Sequence[Any] | None = None) -> Any:
        """The module as an OpenVINO model. Nothing is computed: torch.export sees shapes only.

        Args:
            module: As in `compile`.
            examples: As in `compile`.
            shapes: `dynamic_shapes` of torch.export, where sizes are to stay open.

        Raises:
            RuntimeUnfitError: OpenVINO has no equal for something in the module.
        """
        with self._unfit():
            return _converted(module, examples, shapes)

    def resized(self, model: Any, example: Tensor) -> Graph:
        """A model of one input, from `convert` with open sizes, compiled for one size. It has one set of output buffers.

        Args:
            model: It stays as it is.
            example: Of the shape to compile for.

        Raises:
            RuntimeUnfitError: OpenVINO cannot compile it for this size.
        """
        with self._unfit():
            sized = model.clone()
            sized.reshape(list(example.shape))
        return self._compiled(sized, [example], Buffers(1))

    def _compiled(self, model: Any, examples: Sequence[Tensor], buffers: Buffers, *, exact: bool = False) -> Graph:
        with self._unfit():
            compiled = core().compile_model(model, "CPU", self._options("fp32" if exact else self.precision))
        used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if not exact and used != _HINTS[self.precision]:
            raise RuntimeUnfitError(f"OpenVINO {self.version} computes in {used} where {self.precision} was asked for")
        return Graph(compiled, examples, buffers)

    @contextlib.contextmanager
    def _unfit(self) -> Iterator[None]:
        try:
            yield
        except RuntimeUnfitError:
            raise
        except Exception as error:
            # torch.export and OpenVINO raise their own and many builtin exceptions.
            raise RuntimeUnfitError(
                f"OpenVINO {self.version} cannot compute this network ({_reason(error)})"
            ) from error

    def _options(self, precision: Precision) -> dict[str, Any]:
        return {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": self.threads,
            "PERFORMANCE_HINT": "LATENCY",
            "NUM_STREAMS": "1",
            # A worker's place is decided by Ray and by the system.
            "ENABLE_CPU_PINNING": False,
        }


class Graph:
    """A compiled graph.

    Args:
        compiled: OpenVINO's compiled model.
        examples: Inputs are like these.
        buffers: For the outputs.
    """

    def __init__(self, compiled: Any, examples: Sequence[Tensor], buffers: Buffers) -> None:
        self._examples = [example.to("meta") for example in examples]
        self._request = compiled.create_infer_request()
        self._compiled = compiled
        self._kinds = [(tuple(port.shape), _torch_type(port.element_type.get_type_name())) for port in compiled.outputs]
        self._buffers = buffers

    def __call__(self, *inputs: Tensor, into: Sequence[Tensor | None] = ()) -> tuple[Tensor, ...]:
        """As `Compiled.__call__`; all outputs are written into what is given."""
        check_inputs(inputs, self._examples)
        held = [tensor.contiguous() for tensor in inputs]
        for number, tensor in enumerate(held):
            self._request.set_input_tensor(number, _shared(tensor))
        given = into or [None] * len(self._kinds)
        own = iter(
            self._buffers.take([kind for kind, tensor in zip(self._kinds, given, strict=True) if tensor is None])
        )
        outputs = [next(own) if tensor is None else tensor for tensor in given]
        for number, tensor in enumerate(outputs):
            self._request.set_output_tensor(number, _shared(tensor))
        self._request.infer()
        return tuple(outputs)

    def release(self) -> None:
        """As `Compiled.release`."""
        # Without the request, which holds on to the buffers that it was given last.
        self._request = None
        self._compiled.release_memory()
        self._request = self._compiled.create_infer_request()


def _reason(error: Exception) -> str:
    """What OpenVINO says of operations that it lacks, or the first line of any other error."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    summary = lines[lines.index("Summary:") + 1 :] if "Summary:" in lines else []
    return "; ".join(line.removeprefix("-- ") for line in summary) or lines[0]


def _converted(module: nn.Module, examples: Sequence[Tensor], shapes: Sequence[Any] | None) -> Any:
    openvino = openvino_package()
    seen = tuple(_example(example) for example in examples)
    with _quiet(), torch.no_grad():
        program = torch.export.export(
            module, seen, dynamic_shapes=None if shapes is None else tuple(shapes), strict=False
        )
        graph = openvino.convert_model(program)
    if len(graph.inputs) != len(examples):
        raise RuntimeUnfitError(f"of {len(examples)} inputs the network uses {len(graph.inputs)}")
    for port, example in zip(graph.inputs, examples, strict=True):
        if shapes is None:
            port.get_node().set_partial_shape(openvino.PartialShape(list(example.shape)))
        if example.dtype == torch.uint16:
            port.get_node().set_element_type(openvino.Type.u16)
    graph.validate_nodes_and_infer_types()
    return graph


def _example(tensor: Tensor) -> Tensor:
    # torch.export has few operations for uint16; the graph's input is made one afterwards.
    kind = torch.int16 if tensor.dtype == torch.uint16 else tensor.dtype
    return torch.zeros(tensor.shape, dtype=kind)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of both exporters about parts of their own; and with the caller's logging as it was."""
    exporter, root = logging.getLogger("torch.export"), logging.getLogger()
    before = exporter.level
    # OpenVINO changes the root logger, and leaves it so where a conversion fails.
    state = root.level, list(root.filters), list(root.handlers)
    exporter.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        exporter.setLevel(before)
        root.setLevel(state[0])
        root.filters[:], root.handlers[:] = state[1], state[2]


def _torch_type(name: str) -> torch.dtype:
    known = {
        "f32": torch.float32,
        "bf16": torch.bfloat16,
        "u8": torch.uint8,
        "i16": torch.int16,
        "u16": torch.uint16,
        "i32": torch.int32,
        "i64": torch.int64,
        "boolean": torch.bool,
    }
    if name not in known:
        raise RuntimeUnfitError(f"an output of type {name} is not supported")
    return known[name]


def _shared(tensor: Tensor) -> Any:
    """The tensor's own memory as OpenVINO sees it; nothing is copied."""
    openvino = openvino_package()
    array: np.ndarray[Any, Any] = tensor.view(_SEEN_AS.get(tensor.dtype, tensor.dtype)).numpy()
    if tensor.dtype == torch.bfloat16:
        return openvino.Tensor(array, list(tensor.shape), openvino.Type.bf16)
    if tensor.dtype == torch.uint16:
        return openvino.Tensor(array.view(np.uint16), shared_memory=True)
    return openvino.Tensor(array, shared_memory=True)
