"""The GPU of a job that computes in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from microseg_ray.errors import MicrosegError

if TYPE_CHECKING:
    from microseg_ray.settings import JobSettings

__all__ = ["require_local_gpu"]


def require_local_gpu(settings: JobSettings) -> None:
    """Refuse `--gpu` where this process would compute and has no GPU; workers elsewhere are the cluster's matter.

    Raises:
        MicrosegError: torch finds no GPU.
    """
    values = settings.model_dump(include={"gpu", "workers"})
    if not values.get("gpu") or values.get("workers"):
        return
    import torch

    if not torch.cuda.is_available():
        raise MicrosegError(
            f"{settings.job}.gpu: torch finds no GPU on this machine (a driver and a CUDA build of torch are needed); "
            "leave --gpu away to compute on the CPU"
        )
