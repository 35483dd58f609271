"""The addresses of the page: what is asked, and what is answered."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from starlette.applications import Starlette
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from microseg_ray.errors import InputError, MicrosegError
from microseg_ray.names import text
from microseg_ray.report.viewer.encoding import jpeg, map_png, mask_png
from microseg_ray.report.viewer.hover import object_at
from microseg_ray.report.viewer.levels import TILE
from microseg_ray.report.viewer.listing import Order
from microseg_ray.report.viewer.opened import tile_box
from microseg_ray.report.viewer.subject import key_of
from microseg_ray.settings import ClassSpec, default_color

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from starlette.requests import Request

    from microseg_ray.geometry import Box
    from microseg_ray.report.viewer.state import State

__all__ = ["STATIC", "application", "class_record"]

STATIC = Path(__file__).parent / "static"
_DIFFERENCE = (ClassSpec(name="equal", color="#000000"), ClassSpec(name="different", color="#ff2020"))
_WEEK = {"cache-control": "private, max-age=604800"}
_PAGE = 200


def application(state: State, more: Sequence[Route] = ()) -> Starlette:
    """The application of a page, without its guard.

    Args:
        state: What it shows.
        more: Further routes.
    """
    routes = [
        Route("/", lambda _: FileResponse(STATIC / "index.html")),
        Route("/api/subject", _bound(state, _subject)),
        Route("/api/list", _bound(state, _list)),
        Route("/api/micrograph/{key}", _bound(state, _micrograph)),
        Route("/api/micrograph/{key}/progress", _bound(state, _progress)),
        Route("/api/micrograph/{key}/seams", _bound(state, _seams)),
        Route("/api/micrograph/{key}/object", _bound(state, _object)),
        Route("/thumbnail/{key}", _bound(state, _thumbnail)),
        Route("/tile/{layer}/{key}/{level:int}/{column:int}/{row:int}", _bound(state, _tile)),
        *more,
        Mount("/static", StaticFiles(directory=STATIC)),
    ]
    handlers: dict[Any, Any] = {MicrosegError: _refused, ValueError: _wrong, OSError: _refused}
    return Starlette(routes=routes, exception_handlers=handlers)


def class_record(classes: Sequence[ClassSpec]) -> list[dict[str, str]]:
    """Names and colours of classes for the page."""
    return [{"name": spec.name, "color": spec.color or default_color(index)} for index, spec in enumerate(classes)]


def _bound(state: State, answer: Callable[[State, Request], Response]) -> Callable[[Request], Response]:
    """An endpoint; a plain function, so that it runs in a thread and a slow read stops nobody else."""

    def endpoint(request: Request) -> Response:
        return answer(state, request)

    return endpoint


async def _refused(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": text(str(error)) or type(error).__name__}, status_code=404)


async def _wrong(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": text(str(error))}, status_code=400)


def _subject(state: State, _: Request) -> Response:
    subject, listing = state.subject, state.listing
    counts = {kind: listing.states.count(kind) for kind in ("finished", "unfinished", "failed", "image")}
    document = {} if subject.run is None else subject.run.document
    return JSONResponse(
        {
            "title": text(subject.title),
            "run": subject.run is not None,
            "micrographs": len(subject.names),
            "counts": counts,
            "classes": class_record(subject.classes),
            "promise": str(document.get("promise", "")),
            "intervals": bool(np.isfinite(listing.intervals).any()),
            "truth": bool(state.truths),
        }
    )


def _order(state: State, request: Request) -> Order:
    query, run = request.query_params, state.subject.run is not None
    sort = query.get("sort") or ("outlier" if run else "name")
    if sort not in {"name", "state", "outlier"} and not sort.isdecimal():
        raise ValueError(f"sort={sort!r}: must be name, state, outlier or the index of a class")
    page, size = int(query.get("page", 0)), int(query.get("size", 50))
    if page < 0 or not 1 <= size <= _PAGE:
        raise ValueError(f"page={page}, size={size}: pages count from 0 and have 1 to {_PAGE} rows")
    return Order(
        sort,
        (query.get("order") or ("down" if run else "up")) == "down",
        query.get("contains", ""),
        query.get("state", ""),
        page,
        size,
    )


def _list(state: State, request: Request) -> Response:
    order = _order(state, request)
    if order.sort.isdecimal() and int(order.sort) >= len(state.subject.classes):
        raise ValueError(f"sort={order.sort!r}: there are {len(state.subject.classes)} classes")
    places, total = state.listing.select(order)
    return JSONResponse({"total": total, "page": order.page, "rows": [state.row(place) for place in places]})


def _micrograph(state: State, request: Request) -> Response:
    name = state.name(request.path_params["key"])
    opened, row = state.shelf[name], state.row(state.subject.names.index(name))
    size, source = opened.pixel_size
    return JSONResponse(
        {
            **row,
            "shape": opened.shape,
            "levels": 0 if opened.image is None else len(opened.image.shapes),
            "tile": TILE,
            "layers": opened.layers,
            "finished": opened.finished,
            "problems": list(map(text, opened.problems)),
            "pixel_size_um": size,
            "pixel_size_source": source,
            "limits": opened.limits,
            "objects": state.objects(name) is not None,
            **_neighbours(state, request, name),
        }
    )


def _neighbours(state: State, request: Request, name: str) -> dict[str, Any]:
    """The micrographs before and after this one in the order of the list."""
    sequence = state.listing.sequence(_order(state, request))
    own = state.subject.names.index(name)
    if own not in sequence:
        return {"previous": None, "next": None, "place": None, "of": len(sequence)}
    at = sequence.index(own)
    keys = [
        key_of(state.subject.names[sequence[place]]) if 0 <= place < len(sequence) else None
        for place in (at - 1, at + 1)
    ]
    return {"previous": keys[0], "next": keys[1], "place": at + 1, "of": len(sequence)}


def _progress(state: State, request: Request) -> Response:
    opened = state.shelf[state.name(request.path_params["key"])]
    levels = opened.image
    share, error = (1.0, "") if levels is None else (levels.share, levels.error)
    return JSONResponse({"share": share, "error": error})


def _seams(state: State, request: Request) -> Response:
    return JSONResponse(state.shelf[state.name(request.path_params["key"])].seams())


def _object(state: State, request: Request) -> Response:
    name = state.name(request.path_params["key"])
    opened, rows = state.shelf[name], state.objects(name)
    y, x = (int(request.query_params[axis]) for axis in "yx")
    inside = 0 <= y < opened.shape[0] and 0 <= x < opened.shape[1]
    if rows is None or opened.store is None or not inside:
        return JSONResponse(None)
    mask = opened.store.mask
    return JSONResponse(object_at(rows, y, x, lambda box: np.asarray(mask[box.slices])))


def _thumbnail(state: State, request: Request) -> Response:
    content = state.thumbnail(state.name(request.path_params["key"]))
    return Response(content, media_type="image/jpeg", headers=_WEEK)


def _tile(state: State, request: Request) -> Response:
    where = request.path_params
    opened, layer = state.shelf[state.name(where["key"])], where["layer"]
    box: Box = tile_box(opened.shape, where["level"], where["column"], where["row"])
    pixels = opened.tile(layer, where["level"], box)
    if pixels is None:
        # The levels are being made; the page asks again.
        return Response(status_code=503, headers={"retry-after": "1", "cache-control": "no-store"})
    if layer == "image":
        return Response(jpeg(pixels, _limits(request, opened.limits)), media_type="image/jpeg", headers=_WEEK)
    hidden = {int(each) for each in request.query_params.get("hide", "").split(",") if each}
    if layer in {"difference", "change"}:
        content = mask_png(pixels[0], _DIFFERENCE, {0})
    elif layer in {"margin", "entropy"}:
        content = map_png(pixels[0], low_is_bad=layer == "margin")
    else:
        classes = opened.learnt[0].spec.classes if layer == "learnt" else state.subject.classes
        content = mask_png(pixels[0], classes, hidden)
    # What was learnt is at the same address after the next round.
    kept = layer == "truth" or (opened.finished and layer not in {"learnt", "change"})
    headers = _WEEK if kept else {"cache-control": "no-store"}
    return Response(content, media_type="image/png", headers=headers)


def _limits(request: Request, usual: tuple[float, float]) -> tuple[float, float]:
    query = request.query_params
    if "low" not in query or "high" not in query:
        return usual
    low, high = float(query["low"]), float(query["high"])
    if not low < high:
        raise InputError("contrast", f"black is {low} and white {high}", "white must be above black")
    return low, high
