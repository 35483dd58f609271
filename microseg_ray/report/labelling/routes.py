"""The addresses of the loop: where to label next, learning, and what it changed."""

from __future__ import annotations

import json
import math
import os
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from microseg_ray.errors import InputError
from microseg_ray.report.viewer.label_routes import posting

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.requests import Request

    from microseg_ray.report.labelling.rounds import Rounds
    from microseg_ray.report.labelling.work import Work
    from microseg_ray.report.viewer.state import State

__all__ = ["loop_routes"]

_FRESH = {"cache-control": "no-store"}
_MOST_MINUTES = 24 * 60.0


def loop_routes(state: State, labels: Path, rounds: Rounds, work: Work) -> list[Route]:
    """The routes of the loop of a run.

    Args:
        state: What the page shows.
        labels: The folder of labels.
        rounds: What was learnt.
        work: What the page starts.
    """
    desk = _Desk(state, labels, rounds, work)
    return [
        Route("/api/next", desk.places),
        Route("/api/learn/{key}", desk.changes),
        Route("/api/work", desk.status),
        Route("/api/work/next", posting(desk.find), methods=["POST"]),
        Route("/api/work/learn", posting(desk.learn), methods=["POST"]),
        Route("/api/work/cancel", posting(desk.cancel), methods=["POST"]),
    ]


class _Desk:
    """Answers of one server."""

    def __init__(self, state: State, labels: Path, rounds: Rounds, work: Work) -> None:
        self._state, self._labels, self._rounds, self._work = state, labels, rounds, work

    def places(self, _: Request) -> Response:
        """The list that `next` wrote last, with those of its places alone that this page has."""
        try:
            found = json.loads((self._labels / "next.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return JSONResponse({"places": None, "note": ""}, headers=_FRESH)
        except (OSError, ValueError, RecursionError) as error:
            raise InputError(self._labels / "next.json", f"cannot be read ({error})", "find places again") from error
        places = [each for each in found.get("places", []) if self._known(each)]
        return JSONResponse({"places": places, "note": str(found.get("note", ""))}, headers=_FRESH)

    def _known(self, place: Any) -> bool:
        try:
            self._state.name(place["key"])
        except (InputError, KeyError, TypeError):
            return False
        return True

    def changes(self, request: Request) -> Response:
        name = self._state.name(request.path_params["key"])
        return JSONResponse({"rounds": self._rounds.changes(name)}, headers=_FRESH)

    def status(self, _: Request) -> Response:
        return JSONResponse(self._work.status(), headers=_FRESH)

    def find(self, _: Request, __: dict[str, Any]) -> Response:
        self._work.start("next")
        return JSONResponse(self._work.status())

    def learn(self, _: Request, body: dict[str, Any]) -> Response:
        name = self._state.name(str(body.get("key", "")))
        try:
            minutes = float(body.get("minutes", 2))
        except (TypeError, ValueError) as error:
            raise InputError("minutes", f"are no number ({error})", "give 2, say") from error
        if not (math.isfinite(minutes) and 0 < minutes <= _MOST_MINUTES):
            raise InputError("minutes", f"cannot be {minutes}", f"give a number above 0 and at most {_MOST_MINUTES:g}")
        options = ["--minutes", str(minutes), f"--micrographs={name}", "--parent", str(os.getpid())]
        self._work.start("learn", options)
        return JSONResponse(self._work.status())

    def cancel(self, _: Request, __: dict[str, Any]) -> Response:
        self._work.cancel()
        return JSONResponse(self._work.status())
