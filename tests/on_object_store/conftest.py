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


SECRET = "a-secret-that-must-not-be-found"


@pytest.fixture
def secret() -> str:
    """The secret key, which must not be found anywhere."""
    return SECRET


def _point_to(server: Server, patch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "tests",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_ENDPOINT_URL": server.url,
        "AWS_REGION": "us-east-1",
    }.items():
        patch.setenv(name, value)


def _new_bucket() -> ObjectPath:
    import boto3

    name = f"bucket-{uuid4().hex[:12]}"
    boto3.client("s3").create_bucket(Bucket=name)
    return ObjectPath(name)


@pytest.fixture
def bucket(server: Server, monkeypatch: pytest.MonkeyPatch) -> ObjectPath:
    """An empty bucket, with the environment that jobs find it by."""
    _point_to(server, monkeypatch)
    return _new_bucket()


def _copy(folder: Path, target: ObjectPath) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            (target / path.relative_to(folder).as_posix()).write(path.read_bytes())


@pytest.fixture
def sent() -> Callable[[Path, ObjectPath], None]:
    """`sent(folder, place)` copies a folder into the store."""
    return _copy


@pytest.fixture(scope="session")
def stored(server: Server, archive: Path, checkpoint: Path) -> ObjectPath:
    """A bucket with `archive` and the checkpoint `best`; read only, and found by the environment of `bucket`."""
    with pytest.MonkeyPatch.context() as patch:
        _point_to(server, patch)
        place = _new_bucket()
        for name, folder in {"archive": archive, "best": checkpoint}.items():
            _copy(folder, place / name)
    return place


@pytest.fixture(scope="session")
def local_run(archive: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run in a folder that runs in the store are compared with; read only."""
    from microseg_ray.on_ray.actors import segment
    from microseg_ray.settings import SegmentSettings

    output = tmp_path_factory.mktemp("local") / "run"
    where = {"archive": str(archive), "checkpoint": str(checkpoint), "output": str(output)}
    segment(SegmentSettings(**where, shard=256, workers=0, fingerprint="content"))
    return output


@pytest.fixture(autouse=True)
def _own_copies(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Copies of objects that tests keep are no others than their own."""
    folder = tmp_path_factory.mktemp("copies")
    folder.chmod(0o700)
    monkeypatch.setattr("microseg_ray.files.kept.copies_folder", lambda: folder)


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
