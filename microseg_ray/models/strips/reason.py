"""Why a network cannot be computed in strips; importing this does not load torch."""

from __future__ import annotations

from microseg_ray.errors import MicrosegError

__all__ = ["NotStreamableError"]


class NotStreamableError(MicrosegError):
    """A network, or a run, that cannot be computed in strips; the message says why."""
