"""The view job: serves the page and prints its address."""

from __future__ import annotations

import contextlib
import getpass
import threading
import time
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from microseg_ray.errors import MicrosegError, SettingsError
from microseg_ray.jobs.console import DONE, StartRay, console

if TYPE_CHECKING:
    from collections.abc import Callable

    from microseg_ray.report.labelling.rounds import Rounds
    from microseg_ray.report.viewer.state import State
    from microseg_ray.report.viewer.subject import Subject
    from microseg_ray.runs.store.masks import MaskStore
    from microseg_ray.settings.view import ViewJobSettings

__all__ = ["view"]

_LOOKED_AT = 2.0
"""Seconds after the list was made: its thumbnails come first."""


def view(settings: ViewJobSettings, _start: StartRay) -> int:
    """Serve the page until it is interrupted."""
    missing = [each for each in ("starlette", "uvicorn") if find_spec(each) is None]
    if missing:
        raise SettingsError(f"view: {missing[0]} is missing; install 'microseg_ray[viewer]'")
    from microseg_ray.files import local_folder
    from microseg_ray.report.labelling.rounds import Rounds
    from microseg_ray.report.viewer.labels import Labels
    from microseg_ray.report.viewer.state import State, cache_folder, find_truths
    from microseg_ray.report.viewer.subject import open_subject

    subject = open_subject(settings.run)
    folder = settings.labels
    if folder is None and subject.run is not None:
        folder = str(subject.run.folder / "labels")
    labels = None if folder is None else Labels(Path(folder).expanduser(), subject.classes)
    rounds = None if labels is None or subject.run is None else Rounds(labels.folder)
    truths = find_truths(settings.truth, subject.names)
    state = State(subject, cache_folder(settings.cache), truths, _learnt_masks(subject, rounds))
    # While the rest is imported; the page asks for the list first.
    threading.Thread(target=_list, args=(state,), daemon=True).start()
    from microseg_ray.report.labelling.routes import loop_routes
    from microseg_ray.report.labelling.work import Work
    from microseg_ray.report.viewer.label_routes import label_routes
    from microseg_ray.report.viewer.server import address, bound_socket, serve

    routes = label_routes(state, labels, settings.who or _user())
    with contextlib.ExitStack() as open_things, bound_socket(settings.port) as found:
        if labels is not None and rounds is not None and subject.run is not None:
            work = open_things.enter_context(
                contextlib.closing(Work(local_folder(subject.run.folder, "view"), labels.folder))
            )
            routes += loop_routes(state, labels.folder, rounds, work)
        page = address(found, state.token)
        console.print(f"{len(subject.names)} micrographs: {escape(page)}", soft_wrap=True)
        console.print("Ctrl-C ends it", markup=False)
        serve(state, found, routes, started=lambda: _show(page) if settings.browser else None)
    return DONE


def _learnt_masks(subject: Subject, rounds: Rounds | None) -> Callable[[str], tuple[MaskStore, ...]]:
    """The newest mask that was learnt of a micrograph and the one before it, which is the run's in the first round."""

    def masks(name: str) -> tuple[MaskStore, ...]:
        newest = None if rounds is None else rounds.newest(name)
        if rounds is None or newest is None or subject.run is None:
            return ()
        number, store = newest
        older = rounds.newest(name, number)
        return store, MaskStore.open(subject.run.store_path(name)) if older is None else older[1]

    from microseg_ray.runs.store.masks import MaskStore

    return masks


def _list(state: State) -> None:
    """Make the list while the browser starts, and import what opens a mask while the list is looked at."""
    # What is wrong with a table is said when the page asks.
    with contextlib.suppress(MicrosegError, OSError, ValueError, KeyError):
        _ = state.listing
    time.sleep(_LOOKED_AT)
    import_module("zarr")


def _show(page: str) -> None:
    """Open the page; where there is no browser, the address has been printed."""
    import webbrowser

    # The browser asks at once, and is answered by the thread that would wait for it.
    threading.Thread(target=webbrowser.open, args=(page,), daemon=True).start()


def _user() -> str:
    """The name of the user of this machine; "" where it has none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""
