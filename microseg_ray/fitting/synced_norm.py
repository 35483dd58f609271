"""Batch norms whose statistics are those of the global batch, on any device.

torch's own SyncBatchNorm does this on GPUs only. Without it, N workers with a batch norm fit another model than one
worker does: each normalises with its share of the batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["SyncedBatchNorm2d", "freeze_norms", "synchronise"]


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that shares its statistics among the workers while training; alone it is a plain one.

    Equals `torch.nn.BatchNorm2d` of the workers' inputs put together, forwards and backwards.

    Example:
        >>> norm = SyncedBatchNorm2d(2).eval()
        >>> norm(torch.ones(1, 2, 1, 1)).flatten().round(decimals=4).tolist()
        [1.0, 1.0]
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Normalise (n, c, y, x)."""
        if not (self.training and torch.distributed.is_initialized()):
            return super().forward(input)
        features = input.float()
        mean, variance, count = _shared_moments(features)
        with torch.no_grad():
            self._remember(mean, variance, count)
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        shift = -mean * scale if self.bias is None else self.bias - mean * scale
        return torch.addcmul(shift[None, :, None, None], features, scale[None, :, None, None]).to(input.dtype)

    def _remember(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        share = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), share)


def _shared_moments(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (c,) of all workers' features, and the number of values of a channel."""
    from torch.distributed.nn.functional import all_reduce

    own = features.new_tensor(float(features.numel() // features.shape[1]))
    variance, mean = torch.var_mean(features, dim=(0, 2, 3), correction=0)
    # A row per worker: moments about each worker's own mean can be joined without cancellation.
    table = features.new_zeros((torch.distributed.get_world_size(), 2 * len(mean) + 1))
    here = torch.arange(len(table), device=table.device) == torch.distributed.get_rank()
    table = torch.where(here[:, None], torch.cat([mean, variance, own[None]])[None], table)
    table = all_reduce(table)
    counts = table[:, -1:].detach()
    shares = counts / counts.sum()
    means, variances = table[:, : len(mean)], table[:, len(mean) : -1]
    joint = (shares * means).sum(dim=0)
    return joint, (shares * (variances + (means - joint) ** 2)).sum(dim=0), counts.sum()


def synchronise(model: nn.Module) -> None:
    """Make the batch norms of a model share their statistics, in place; names and weights stay as they are."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncedBatchNorm2d


def freeze_norms(model: nn.Module) -> None:
    """Batch norms keep weights and statistics; to be called again after each `model.train()`.

    Example:
        >>> model = nn.Sequential(nn.BatchNorm2d(1)).train()
        >>> freeze_norms(model)
        >>> model[0].training, model[0].weight.requires_grad
        (False, False)
    """
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):  # noqa: SLF001 - the only common base
            module.eval()
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(False)
