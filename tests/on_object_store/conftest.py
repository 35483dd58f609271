"""A real S3 server on the loopback interface, and the environment that leads to it."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from microseg_ray.files import BOOKS, ObjectPath, name_below, place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Server:
    """Where the server listens."""

    url: str


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """moto's S3, which knows conditional writes."""
    moto = pytest.importorskip("moto.server")
    running = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs each request
    running.start()
    host, port = running.get_host_and_port()
    yield Server(f"http://{host}:{port}")
    running.stop()


@pytest.fixture
def secret() -> str:
    """The secret key, which must not be found anywhere."""
    return "a-secret-that-must-not-be-found"


@pytest.fixture
def bucket(server: Server, secret: str, monkeypatch: pytest.MonkeyPatch) -> ObjectPath:
    """An empty bucket, with the environment that jobs find it by."""
    import boto3

    for name, value in {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": secret,
        "AWS_ENDPOINT_URL": server.url,
        "AWS_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    name = f"bucket-{uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=name)
    return ObjectPath(name)


@pytest.fixture
def sent() -> Callable[[Path, ObjectPath], None]:
    """`sent(folder, place)` copies a folder into the store."""

    def copy(folder: Path, target: ObjectPath) -> None:
        for path in folder.rglob("*"):
            if path.is_file():
                (target / path.relative_to(folder).as_posix()).write(path.read_bytes())

    return copy


@pytest.fixture
def objects_of() -> Callable[[ObjectPath | Path], dict[str, str]]:
    """`objects_of(place)`: the sha256 of every object or file below, by name; locks and logs are left out, which hold times."""

    def found(where: ObjectPath | Path) -> dict[str, str]:
        if isinstance(where, ObjectPath):
            paths = [ObjectPath(where.bucket, each["path"]) for each in where.below()]
        else:
            paths = [path for path in place(where).rglob("*") if path.is_file()]  # type: ignore[union-attr]
        kept = [path for path in paths if path.name not in BOOKS and path.parent.name != "logs"]
        return {name_below(path, where): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept}

    return found
