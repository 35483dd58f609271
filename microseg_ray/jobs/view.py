"""The view job: serves the page and prints its address."""

from __future__ import annotations

import getpass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from microseg_ray.errors import SettingsError
from microseg_ray.jobs.console import DONE, StartRay, console

if TYPE_CHECKING:
    from microseg_ray.settings.view import ViewJobSettings

__all__ = ["view"]


def view(settings: ViewJobSettings, _start: StartRay) -> int:
    """Serve the page until it is interrupted."""
    try:
        import starlette
        import uvicorn
    except ImportError as error:
        raise SettingsError(f"view: {error.name} is missing; install 'microseg_ray[viewer]'") from error
    del starlette, uvicorn
    from microseg_ray.report.viewer.label_routes import label_routes
    from microseg_ray.report.viewer.labels import Labels
    from microseg_ray.report.viewer.server import address, bound_socket, serve
    from microseg_ray.report.viewer.state import State, cache_folder, find_truths
    from microseg_ray.report.viewer.subject import open_subject

    subject = open_subject(settings.run)
    state = State(subject, cache_folder(settings.cache), find_truths(settings.truth, subject.names))
    folder = settings.labels
    if folder is None and subject.run is not None:
        folder = str(subject.run.folder / "labels")
    labels = None if folder is None else Labels(Path(folder).expanduser(), subject.classes)
    routes = label_routes(state, labels, settings.who or _user())
    with bound_socket(settings.port) as found:
        page = address(found, state.token)
        console.print(f"{len(subject.names)} micrographs: {escape(page)}", soft_wrap=True)
        console.print("Ctrl-C ends it", markup=False)
        serve(state, found, routes, started=lambda: _show(page) if settings.browser else None)
    return DONE


def _show(page: str) -> None:
    """Open the page; where there is no browser, the address has been printed."""
    import threading
    import webbrowser

    # The browser asks at once, and is answered by the thread that would wait for it.
    threading.Thread(target=webbrowser.open, args=(page,), daemon=True).start()


def _user() -> str:
    """The name of the user of this machine; "" where it has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
