"""Who may ask the server: only a page of its own, opened with its token."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping
    from typing import Any

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]

__all__ = ["Guard"]

_HEADERS = (
    (b"content-security-policy", b"default-src 'self'; img-src 'self' blob: data:; style-src 'self' 'unsafe-inline'"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """Refuses other hosts (a name that an attacker points at 127.0.0.1), other origins, and whoever lacks the token.

    The token comes in the URL once, and from then on in a cookie that other sites cannot send.

    Args:
        app: What answers.
        token: The secret of this server.
        port: Where it listens.
    """

    def __init__(self, app: App, token: str, port: int) -> None:
        self._app, self._token = app, token.encode("ascii")
        self._hosts = {f"{host}:{port}".encode("ascii") for host in ("127.0.0.1", "localhost")}
        # A cookie belongs to a host, not to a port: two servers must not overwrite each other's.
        self._cookie = f"microseg_{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = dict(scope.get("headers", []))
        if scope["type"] != "http" or headers.get(b"host", b"").lower() not in self._hosts:
            await _refuse(send, 421, "this server answers on 127.0.0.1 only")
            return
        origin = headers.get(b"origin")
        if origin is not None and origin.removeprefix(b"http://").lower() not in self._hosts:
            await _refuse(send, 403, "a page of another site may not ask this server")
            return
        given = parse_qs(scope.get("query_string", b"")).get(b"token", [b""])[0]
        if given and hmac.compare_digest(given, self._token):
            await self._enter(scope, send)
        elif hmac.compare_digest(self._from_cookie(headers), self._token):
            await self._app(scope, receive, _with_headers(send))
        else:
            await _refuse(send, 403, "open the address that `microseg view` printed: it holds the token of this server")

    def _from_cookie(self, headers: dict[bytes, bytes]) -> bytes:
        pairs = (part.strip().partition(b"=") for part in headers.get(b"cookie", b"").split(b";"))
        return next((value for name, _, value in pairs if name == self._cookie.encode("ascii")), b"")

    async def _enter(self, scope: Scope, send: Send) -> None:
        """Put the token into a cookie and out of the address."""
        cookie = f"{self._cookie}={self._token.decode('ascii')}; HttpOnly; SameSite=Strict; Path=/".encode("ascii")
        # One slash: two would name another host.
        path = b"/" + scope.get("raw_path", scope["path"].encode("utf-8")).split(b"?")[0].lstrip(b"/")
        await send(
            {"type": "http.response.start", "status": 303, "headers": [(b"location", path), (b"set-cookie", cookie)]}
        )
        await send({"type": "http.response.body", "body": b""})


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", []), *_HEADERS]}
        await send(message)

    return sending


async def _refuse(send: Send, status: int, reason: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), *_HEADERS]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason.encode("utf-8")})
