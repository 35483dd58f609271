"""The processes that train one model together, seen from one of them."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from microseg_ray.fence import Fence

__all__ = ["Workers"]


@dataclass(frozen=True)
class Workers:
    """The workers of a fit, as one of them sees them.

    Attributes:
        rank: Index of this worker, from 0.
        world: Number of workers.
        device: Device of this worker.
        fence: Of the job, which another job ends; None where this process holds the lock of the output itself.

    Example:
        >>> Workers(rank=1, world=2).distributed, Workers(device="cuda:0").kind
        (True, 'cuda')
    """

    rank: int = 0
    world: int = 1
    device: str = "cpu"
    fence: Fence | None = None

    @property
    def distributed(self) -> bool:
        """Whether there is more than one worker."""
        return self.world > 1

    @property
    def kind(self) -> str:
        """Type of the device: `cpu` or `cuda`."""
        return torch.device(self.device).type

    def writing(self) -> contextlib.AbstractContextManager[None]:
        """Write into the output inside the block.

        Raises:
            FencedError: On entering: another job has begun to write there.
        """
        return contextlib.nullcontext() if self.fence is None else self.fence.writing()

    def total(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum a tensor over all workers, in place."""
        if self.distributed:
            torch.distributed.all_reduce(tensor)
        return tensor

    def any_true(self, flag: bool) -> bool:
        """Whether the flag is true on any worker; every worker must call it."""
        return bool(self.total(torch.tensor(int(flag), device=self.device)).item())
