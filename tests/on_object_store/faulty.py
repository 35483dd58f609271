"""A proxy in front of an S3 server that fails some of the requests, as stores do: 500, 503 SlowDown, resets, stalls."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

KINDS = ("500", "503", "reset", "lost answer", "stall")
_SLOW_DOWN = (
    b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>'
)
_OURS = frozenset({"connection", "transfer-encoding", "content-length", "server", "date"})


@dataclass
class Faults:
    """Which requests fail.

    Attributes:
        share: Of the requests.
        kinds: Of failures, drawn with equal chances.
        stall: Seconds that a stall lasts.
        injected: How many failed, by kind.
        requests: How many came.
        asked: How many came, by method and path.
    """

    share: float
    kinds: tuple[str, ...] = KINDS
    stall: float = 3.0
    seed: int = 0
    injected: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    asked: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)
        self._lock = threading.Lock()

    def next(self) -> str | None:
        with self._lock:
            self.requests += 1
            kind = self._draw.choice(self.kinds) if self._draw.random() < self.share else None
            if kind:
                self.injected[kind] += 1
            return kind


class FaultyProxy(ThreadingHTTPServer):
    """Forwards to `target`, or fails."""

    daemon_threads = True

    def __init__(self, target: str, faults: Faults) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target, self.faults = urlsplit(target).netloc, faults
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, *_: Any) -> None:
        """A client that gave up is no error of the proxy."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _forward(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        self.server.faults.asked[f"{self.command} {self.path}"] += 1
        kind = self.server.faults.next()
        if kind == "stall":
            time.sleep(self.server.faults.stall)
        if kind in {"reset", "stall"}:
            # No last words: the client sees a reset.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.close_connection = True
            self.connection.close()
            return
        if kind in {"500", "503"}:
            self._answer(int(kind), {}, _SLOW_DOWN if kind == "503" else b"")
            return
        inner = HTTPConnection(self.server.target, timeout=60)
        inner.request(self.command, self.path, body, dict(self.headers))
        answer = inner.getresponse()
        content = answer.read()
        inner.close()
        if kind == "lost answer":
            # The store has done what was asked, and the client does not learn of it.
            self.close_connection = True
            self.connection.close()
            return
        headers = {name: value for name, value in answer.getheaders() if name.lower() not in _OURS}
        if self.command == "HEAD":
            headers["Content-Length"] = answer.getheader("content-length", "0")
        self._answer(answer.status, headers, content)

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _forward
