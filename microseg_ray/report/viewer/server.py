"""The server: a port of this machine, an application, and when it stops."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from microseg_ray.report.viewer.state import State

__all__ = ["address", "bound_socket", "serve"]

_HOST = "127.0.0.1"
_WAITING = 128


def bound_socket(port: int) -> socket.socket:
    """A socket on 127.0.0.1.

    Args:
        port: 0 for any that is free.

    Raises:
        SettingsError: The port is taken or may not be used.
    """
    found = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((_HOST, port))
        # From here on a browser waits for its answer, and is not refused while the rest of the program starts.
        found.listen(_WAITING)
    except OSError as error:
        found.close()
        raise SettingsError(
            f"view.port {port}: cannot be used ({error.strerror}); give another, or 0 for a free one"
        ) from error
    return found


def address(found: socket.socket, token: str) -> str:
    """The address of the page, with its token."""
    return f"http://{_HOST}:{found.getsockname()[1]}/?token={token}"


def serve(
    state: State, found: socket.socket, routes: Sequence[Any] = (), started: Callable[[], None] = lambda: None
) -> None:
    """Answer until the process is interrupted.

    Args:
        state: What the page shows.
        found: Where to listen.
        routes: Further routes of the page.
        started: Called once the server answers.
    """
    import uvicorn

    from microseg_ray.report.viewer.guard import Guard
    from microseg_ray.report.viewer.routes import application

    class Server(uvicorn.Server):
        """Says when it answers."""

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            started()

    app = Guard(application(state, routes), state.token, found.getsockname()[1])
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_graceful_shutdown=2
    )
    try:
        Server(config).run(sockets=[found])
    finally:
        state.close()
