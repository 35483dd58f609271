"""The addresses of the labelling loop: strokes, undo, classes, tiles of labels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from microseg_ray.errors import InputError, MicrosegError
from microseg_ray.geometry import Box
from microseg_ray.names import text
from microseg_ray.report.viewer.encoding import mask_png
from microseg_ray.report.viewer.labels import Sheet, SomebodyElseError, Ticket
from microseg_ray.report.viewer.opened import tile_box
from microseg_ray.report.viewer.routes import class_record
from microseg_ray.report.viewer.strokes import Stroke

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray
    from starlette.requests import Request

    from microseg_ray.report.viewer.labels import Labels
    from microseg_ray.report.viewer.opened import Opened
    from microseg_ray.report.viewer.state import State

__all__ = ["label_routes", "posting"]

_LONGEST_NAME = 80
_STALE = {"cache-control": "no-store"}


def label_routes(state: State, labels: Labels | None, who: str) -> list[Route]:
    """The routes of labels.

    Args:
        state: What the page shows.
        labels: Where labels are kept; None where nothing can be painted.
        who: The name that a page has until its user gives another.
    """
    if labels is None:
        return [Route("/api/labels", lambda _: JSONResponse({"labels": False}))]
    desk = _Desk(state, labels, who)
    return [
        Route("/api/labels", desk.about),
        Route("/api/labels/classes", posting(desk.add_class), methods=["POST"]),
        Route("/api/labels/{key}", desk.version),
        Route("/api/labels/{key}/stroke", posting(desk.stroke), methods=["POST"]),
        Route("/api/labels/{key}/undo", posting(desk.undo), methods=["POST"]),
        Route("/api/labels/{key}/copy", posting(desk.copy), methods=["POST"]),
        Route("/labels/{key}/{level:int}/{column:int}/{row:int}", desk.tile),
    ]


def posting(answer: Callable[[Request, dict[str, Any]], Response]) -> Any:
    """An endpoint that is sent a JSON object; the work is done in a thread."""

    async def endpoint(request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        try:
            body = json.loads(await request.body())
        except (ValueError, RecursionError) as error:
            return JSONResponse({"error": f"this is no JSON ({error})"}, status_code=400)
        if not isinstance(body, dict):
            return JSONResponse({"error": "this is no JSON object"}, status_code=400)
        try:
            return await run_in_threadpool(answer, request, body)
        except SomebodyElseError as error:
            return JSONResponse({"error": text(str(error))}, status_code=409)
        except MicrosegError as error:
            return JSONResponse({"error": text(str(error))}, status_code=400)

    return endpoint


class _Desk:
    """Answers of one server."""

    def __init__(self, state: State, labels: Labels, who: str) -> None:
        self._state, self._labels, self._who = state, labels, who

    def about(self, _: Request) -> Response:
        classes = class_record(self._labels.classes)
        return JSONResponse(
            {"labels": True, "folder": text(str(self._labels.folder)), "who": self._who, "classes": classes}
        )

    def add_class(self, _: Request, body: dict[str, Any]) -> Response:
        index = self._labels.add_class(str(body.get("name", "")), str(body.get("color", "")))
        return JSONResponse({"index": index, "classes": class_record(self._labels.classes)})

    def version(self, request: Request) -> Response:
        name = self._state.name(request.path_params["key"])
        entries = self._labels.entries(name)
        last = {key: entries[-1][key] for key in ("who", "when")} if entries else None
        reason = self._objection(self._state.shelf[name])
        return JSONResponse({"version": len(entries), "last": last, "objection": reason}, headers=_STALE)

    def stroke(self, request: Request, body: dict[str, Any]) -> Response:
        opened, sheet = self._sheet(request)
        stroke = Stroke.of_record(body, len(self._labels.classes))
        return JSONResponse(self._labels.draw(sheet, stroke, _ticket(body), _mask_of(opened)))

    def undo(self, request: Request, body: dict[str, Any]) -> Response:
        _, sheet = self._sheet(request)
        return JSONResponse(self._labels.undo(sheet, _ticket(body)))

    def copy(self, request: Request, body: dict[str, Any]) -> Response:
        opened, sheet = self._sheet(request)
        shown = _mask_of(opened)
        if shown is None:
            raise InputError(sheet.name, "it has no mask to start from", "segment it first")
        try:
            y0, x0, y1, x1 = (int(side) for side in body["box"])
        except (KeyError, TypeError, ValueError) as error:
            raise InputError("copy", f"the box cannot be read ({error})", "reload the page") from error
        height, width = sheet.shape
        y0, x0 = (min(max(0, side), end) for side, end in ((y0, height), (x0, width)))
        box = Box(y0, x0, min(max(y0, y1), height), min(max(x0, x1), width))
        return JSONResponse(self._labels.copy(sheet, box, shown, _ticket(body)))

    def tile(self, request: Request) -> Response:
        where = request.path_params
        _, sheet = self._sheet(request)
        box = tile_box(sheet.shape, where["level"], where["column"], where["row"])
        content = mask_png(self._labels.tile(sheet, where["level"], box), self._labels.classes)
        return Response(content, media_type="image/png", headers=_STALE)

    def _sheet(self, request: Request) -> tuple[Opened, Sheet]:
        name = self._state.name(request.path_params["key"])
        opened = self._state.shelf[name]
        objection = self._objection(opened)
        if objection:
            raise InputError(name, objection, "look at it only")
        return opened, Sheet(name, self._state.subject.path(name), opened.shape, opened.pixel_size[0])

    @staticmethod
    def _objection(opened: Opened) -> str:
        """Why a micrograph cannot be painted in; "" where it can."""
        if opened.rescaled:
            return "it was segmented at another pixel size than its own, so labels would not fit its pixels"
        return "" if opened.image is not None else "the micrograph itself cannot be read"


def _mask_of(opened: Opened) -> Callable[[Box], NDArray[np.uint8]] | None:
    store = opened.newest
    return None if store is None else store.read


def _ticket(body: dict[str, Any]) -> Ticket:
    try:
        who, session, stroke = (str(body[key]) for key in ("who", "session", "stroke"))
        version = int(body["version"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("stroke", f"cannot be read ({error})", "reload the page") from error
    if max(map(len, (who, session, stroke))) > _LONGEST_NAME or version < 0:
        raise InputError("stroke", "a name is too long, or the version is below 0", "reload the page")
    return Ticket(who, session, version, stroke)
