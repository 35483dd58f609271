"""What a runtime is: the two things that it does, without saying how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from microseg_ray.models.runtimes.buffers import Buffers

__all__ = ["FREE_PIXELS", "HELD_PIXELS", "Compiled", "Precision", "Runtime", "check_inputs"]

Precision = Literal["bf16", "fp32"]

FREE_PIXELS = 4 << 20
"""A network stays compiled for several sizes while these have no more pixels than this together; else for the last one only."""


HELD_PIXELS: dict[Precision, int] = {"bf16": 26 * 10**5, "fp32": 13 * 10**5}
"""The strips of an image keep the memory that they compute in while they have no more pixels than this together.

Those of an image of 2048 px a side have less, so that many such images are computed without asking for memory again.
"""


class Compiled(Protocol):
    """A network of fixed shapes. Not thread-safe: one call at a time."""

    def __call__(self, *inputs: Tensor, into: Sequence[Tensor | None] = ()) -> tuple[Tensor, ...]:
        """Run it once.

        Args:
            inputs: As many as the examples, of their shapes, types and device. They are not changed, and are free again when
                the call returns.
            into: Contiguous tensors that the outputs may be written into, None for any; a runtime may return others.

        Returns:
            What the module returns, as a tuple. The tensors may be buffers of the network: they keep their values until the
            second call from now, so that what one call returns may be an input of the next. Copy what is to live longer.

        Raises:
            ValueError: Another number of inputs, another shape or type.
        """

    def release(self) -> None:
        """Give back the memory that it computes in, until the next call."""


class Runtime(Protocol):
    """Turns modules into compiled networks.

    Attributes:
        name: `torch` or `openvino`.
        version: Of the package.
        precision: What it computes in; `fp32` where `bf16` was asked for and the processor has no such units.
    """

    name: str
    version: str
    precision: Precision

    def compile(
        self, module: nn.Module, examples: Sequence[Tensor], *, exact: bool = False, buffers: Buffers | None = None
    ) -> Compiled:
        """Make a module ready for inputs like the examples.

        Args:
            module: In evaluation mode; its tensors are not changed. It takes as many tensors as there are examples and
                returns a tensor or a tuple of tensors. Nothing in it may depend on the values of its inputs.
            examples: One tensor for each input; only their shapes and types count.
            exact: Compute in float32 whatever `precision` says, as for an argmax.
            buffers: For the outputs, where the runtime writes into buffers; None: two sets of its own.

        Raises:
            RuntimeUnfitError: The runtime has no equal for something in the module.
        """


def check_inputs(inputs: Sequence[Tensor], examples: Sequence[Tensor]) -> None:
    """Whether inputs are like the examples that a network was compiled for.

    Raises:
        ValueError: They are not.

    Example:
        >>> import torch
        >>> check_inputs([torch.zeros(2)], [torch.zeros(3)])
        Traceback (most recent call last):
            ...
        ValueError: input 0 is (2,) torch.float32; the network was compiled for (3,) torch.float32
    """
    if len(inputs) != len(examples):
        raise ValueError(f"{len(inputs)} inputs; the network was compiled for {len(examples)}")
    for number, (found, wanted) in enumerate(zip(inputs, examples, strict=True)):
        if found.shape != wanted.shape or found.dtype != wanted.dtype:
            raise ValueError(
                f"input {number} is {tuple(found.shape)} {found.dtype}; the network was compiled for "
                f"{tuple(wanted.shape)} {wanted.dtype}"
            )
