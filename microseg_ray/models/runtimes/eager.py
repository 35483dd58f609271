"""The torch runtime: modules run as they are, channels_last, under bf16 autocast where asked for."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import torch

from microseg_ray.models.runtimes.base import check_inputs
from microseg_ray.models.runtimes.units import torch_precision
from microseg_ray.versions import version

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor, nn

    from microseg_ray.models.runtimes.base import Precision
    from microseg_ray.models.runtimes.buffers import Buffers

__all__ = ["TorchRuntime"]


class TorchRuntime:
    """Runs modules with torch, on a CPU or a GPU.

    Args:
        precision: `bf16` runs convolutions in bfloat16 (autocast), `fp32` all in float32; `bf16` becomes `fp32` on a
            processor without bf16 units, as the attribute says.
        device: `cpu`, `cuda`, `cuda:1` ...
        threads: Threads that torch uses in this process from now on; None leaves them as they are.

    Raises:
        ValueError: Unknown precision or fewer than one thread.

    Example:
        >>> runtime = TorchRuntime("fp32")
        >>> run = runtime.compile(torch.nn.ReLU(), [torch.zeros(2)])
        >>> run(torch.tensor([-1.0, 1.0]))
        (tensor([0., 1.]),)
    """

    name = "torch"

    def __init__(self, precision: Precision = "bf16", device: str = "cpu", threads: int | None = None) -> None:
        if precision not in ("bf16", "fp32"):
            raise ValueError(f"precision {precision!r} is unknown; known are bf16, fp32")
        if threads is not None:
            if threads < 1:
                raise ValueError(f"threads {threads} is not possible; it must be at least 1")
            torch.set_num_threads(threads)
        self.version: str = version("torch")
        self.precision: Precision = torch_precision(precision, device)
        self.device = torch.device(device)

    def compile(
        self,
        module: nn.Module,
        examples: Sequence[Tensor],
        *,
        exact: bool = False,
        buffers: Buffers | None = None,  # noqa: ARG002 - results are new tensors
    ) -> _Eager:
        """As `Runtime.compile`; the module is moved to the device."""
        return _Eager(module.to(self.device), examples, self, exact=exact)

    @contextlib.contextmanager
    def context(self, *, exact: bool = False) -> Iterator[None]:
        """Inference with this precision, and on a GPU always by the same algorithm.

        Args:
            exact: float32 whatever the precision.
        """
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if self.device.type == "cuda":
                # One algorithm for one shape; and fp32 means float32, not TF32.
                flags = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
                stack.enter_context(flags)
            if self.precision == "bf16" and not exact:
                stack.enter_context(torch.autocast(self.device.type, dtype=torch.bfloat16))
            yield


class _Eager:
    def __init__(self, module: nn.Module, examples: Sequence[Tensor], runtime: TorchRuntime, *, exact: bool) -> None:
        self._module = module
        self._examples = [example.to("meta") for example in examples]
        self._runtime = runtime
        self._exact = exact

    def __call__(self, *inputs: Tensor, into: Sequence[Tensor | None] = ()) -> tuple[Tensor, ...]:  # noqa: ARG002
        check_inputs(inputs, self._examples)
        with self._runtime.context(exact=self._exact):
            found = self._module(*inputs)
        return tuple(found) if isinstance(found, (tuple, list)) else (found,)

    def release(self) -> None:
        """Nothing is held between two calls."""
