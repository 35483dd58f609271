"""Reads bytes of local paths and of URLs. URLs go through fsspec (http, s3, memory and whatever is installed)."""

from __future__ import annotations

import hashlib
import io
import os
import re
import shutil
import stat
import tempfile
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from microseg_ray.errors import InputError, ObjectStoreError
from microseg_ray.files import ObjectPath
from microseg_ray.files.client import SCHEME, client_options, failure, reaching, require_credentials, retries
from microseg_ray.files.objects import is_object_url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from microseg_ray.files import Where

__all__ = [
    "byte_size",
    "filesystem",
    "is_url",
    "joined",
    "location",
    "open_binary",
    "read_small",
    "require_regular",
    "scratch_copy",
    "version",
]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_LOCAL = re.compile(r"(?:file|local)://", re.IGNORECASE)
_BLOCK = 1 << 20  # bytes that a request fetches at least: about a tile of a micrograph
_KEPT_BLOCKS = 16  # of a file in an object store
_MAX_WHOLE = 8 << 30  # bytes of a file that a server only hands out whole
_VERSION_KEYS = ("ETag", "etag", "e_tag", "md5Hash", "Content-MD5", "version_id", "LastModified", "last_modified",
                 "Last-Modified", "mtime", "created")  # fmt: skip


def is_url(where: object) -> bool:
    """Whether this names something behind a protocol other than the local file system's.

    Example:
        >>> is_url("s3://bucket/a.tif"), is_url("/data/a.tif"), is_url("file:///data/a.tif"), is_url("C://a.tif")
        (True, False, False, False)
    """
    text = str(where)
    return _URL.match(text) is not None and _LOCAL.match(text) is None


def location(where: Where) -> str:
    """A path or URL as text; `file://` URLs become paths.

    Example:
        >>> location("file:///data/a #1.tif"), location("https://host/a.tif")
        ('/data/a #1.tif', 'https://host/a.tif')
    """
    text = str(where)
    return text if is_url(text) else _LOCAL.sub("", text, count=1)


def joined(folder: str, name: str) -> str:
    """A name below a folder, which is a path or a URL.

    Example:
        >>> joined("memory://a/", "b/c"), joined("/a", "b/c")
        ('memory://a/b/c', '/a/b/c')
    """
    return f"{folder.rstrip('/')}/{name}" if is_url(folder) else str(Path(folder) / name)


def filesystem(url: str) -> tuple[Any, str]:
    """The fsspec file system of a URL, and the path in it.

    Raises:
        InputError: The protocol is unknown, or its package is not installed.
        StoreError: An address of an object store that cannot be used.
        ObjectStoreError: There are no credentials for it.

    Example:
        >>> filesystem("ftpx://a")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.InputError: ftpx://a: the address cannot be used (Protocol not known: ftpx); ...
    """
    from fsspec.core import url_to_fs

    options = {}
    if is_object_url(url):
        ObjectPath.of(url)
        if _register_objects():
            require_credentials(url)
            options["environment"] = hash(tuple(sorted(os.environ.items())))
    try:
        opened, inner = url_to_fs(url, **options)
    except (ImportError, ValueError) as error:
        raise InputError(
            url, f"the address cannot be used ({error})", "install what it names, or copy the files here"
        ) from error
    return opened, str(inner)


@cache
def _register_objects() -> bool:
    """Read s3:// by the library that writes it, where it is there: one environment, one way to try again."""
    if find_spec("obstore") is None:
        return False
    import fsspec
    from fsspec.spec import AbstractBufferedFile
    from obstore.fsspec import FsspecStore

    class Ranged(AbstractBufferedFile):  # type: ignore[misc]
        """A file by blocks that are kept: the library's own asks for each tile of a TIFF by itself."""

        def _fetch_range(self, start: int, end: int) -> bytes:
            with reaching(f"{SCHEME}{self.path}"):
                return cast("bytes", self.fs.cat_file(self.path, start=start, end=end))

    class Objects(FsspecStore):
        """Without a listing that is kept, and with our patience."""

        protocol = "s3"

        def __init__(self, *args: Any, environment: int = 0, **options: Any) -> None:
            # fsspec keeps file systems by their arguments: another environment is another one.
            del environment
            super().__init__("s3", *args, client_options=client_options(), retry_config=retries(), **options)

        def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:  # type: ignore[override]
            cache = {"cache_type": "blockcache", "cache_options": {"maxblocks": _KEPT_BLOCKS}}
            return Ranged(self, path, mode, block_size=_BLOCK, **cache)

    fsspec.register_implementation("s3", Objects, clobber=True)
    return True


def open_binary(where: str) -> BinaryIO:
    """Open a file for reading at any place; of a URL only what is read is fetched, where the server can do so.

    Raises:
        FileNotFoundError, PermissionError: As for local files.
        InputError: The server cannot be reached.

    Example:
        >>> import fsspec
        >>> fsspec.filesystem("memory").pipe("/remote-doctest/a.bin", b"abc")
        >>> with open_binary("memory://remote-doctest/a.bin") as file:
        ...     file.read(2)
        b'ab'
    """
    if not is_url(where):
        require_regular(where)
        return Path(where).open("rb")
    opened, inner = filesystem(where)
    with _reaching(where):
        file = opened.open(inner, "rb", block_size=_BLOCK)
        size = getattr(file, "size", None)
        if file.seekable() and size is not None and _has_ranges(file, where, size):
            return cast("BinaryIO", file)
        file.close()
        # A server without ranges or without a stated size: fetch the whole file, once.
        with opened.open(inner, "rb", block_size=0) as stream:
            return _whole(stream, where, size)


def require_regular(path: str | os.PathLike[str]) -> None:
    """Refuse pipes, sockets and devices, without opening them: that would wait for a writer, for ever.

    Raises:
        InputError: It is one.

    Example:
        >>> require_regular("/dev/null")
        Traceback (most recent call last):
            ...
        microseg_ray.errors.InputError: /dev/null: it is a device, not a file; give the file itself
    """
    mode = Path(path).stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        kind = "a named pipe" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"
        raise InputError(path, f"it is {kind}, not a file", "give the file itself")


def byte_size(where: str) -> int:
    """Bytes of a file.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     byte_size(file.name)
        0
    """
    if not is_url(where):
        return Path(where).stat().st_size
    with open_binary(where) as file:
        return file.seek(0, io.SEEK_END)


def read_small(where: str, most: int) -> bytes | None:
    """A whole small file, or None where there is none.

    Raises:
        InputError: It is larger than `most` bytes.

    Example:
        >>> read_small("/no/such/file", 10) is None
        True
    """
    try:
        with open_binary(where) as file:
            content = file.read(most + 1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    if len(content) > most:
        raise InputError(where, f"it is larger than {most} bytes", "the store is damaged")
    return content


def version(url: str) -> tuple[int, str]:
    """What identifies a remote file's content: its size, and the server's entity tag or time of change.

    Where the server gives neither, the content's own digest, which costs reading it.

    Raises:
        InputError: There is no such file, or the server cannot be reached.

    Example:
        >>> import fsspec
        >>> fsspec.filesystem("memory").pipe("/remote-doctest/v.bin", b"abc")
        >>> version("memory://remote-doctest/v.bin")[0]
        3
    """
    opened, inner = filesystem(url)
    try:
        with _reaching(url):
            opened.invalidate_cache()
            info = opened.info(inner)
    except FileNotFoundError as error:
        raise InputError(url, "no such file", "check the address") from error
    found = [f"{key}={info[key]}" for key in _VERSION_KEYS if info.get(key) is not None]
    if found and info.get("size") is not None:
        return int(info["size"]), hashlib.sha256("\n".join(found).encode()).hexdigest()[:32]
    digest, size = hashlib.sha256(), 0
    with open_binary(url) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
            size += len(block)
    return size, digest.hexdigest()[:32]


@contextmanager
def scratch_copy(url: str, suffix: str) -> Iterator[str]:
    """A local copy of a remote file, for libraries that want a path; gone afterwards.

    Example:
        >>> import fsspec
        >>> fsspec.filesystem("memory").pipe("/remote-doctest/c.bin", b"abc")
        >>> with scratch_copy("memory://remote-doctest/c.bin", ".bin") as path:
        ...     Path(path).read_bytes()
        b'abc'
    """
    with tempfile.TemporaryDirectory(prefix="microseg-") as folder:
        path = Path(folder) / f"copy{suffix}"
        with open_binary(url) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, _BLOCK)
        yield str(path)


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        # fsspec calls everything that went wrong with a web address a missing file.
        cause = error.__cause__
        if getattr(cause, "status", 404) in {401, 403}:
            raise PermissionError(url) from error
        if isinstance(cause, OSError):
            raise InputError(
                url, f"the server cannot be reached ({cause})", "check the address and the network"
            ) from error
        raise
    except (PermissionError, IsADirectoryError, InputError, ObjectStoreError):
        raise
    except Exception as error:
        if is_object_url(url) and _is_outage(error):
            raise failure(url, error) from error
        # Each protocol's client has exceptions of its own.
        text = " ".join(str(error).split())[:200]
        reason = f"the server did not answer as it should ({type(error).__name__}: {text})"
        raise InputError(url, reason, "check the address, the network and the credentials") from error


def _is_outage(error: Exception) -> bool:
    """Whether the client of object stores gave a request up, so that no file is to blame."""
    if find_spec("obstore") is None:
        return False
    from obstore.exceptions import GenericError

    return isinstance(error, GenericError)


def _has_ranges(file: Any, url: str, size: int) -> bool:
    """Whether the server gives parts of files; only http servers are in doubt."""
    if not url.lower().startswith("http") or size <= _BLOCK:
        return True
    try:
        file.seek(size - 1)
        good = len(file.read(1)) == 1
        file.seek(0)
    except ValueError:
        return False
    return good


def _whole(stream: Any, url: str, size: int | None) -> io.BytesIO:
    """A stream's content, which must be complete."""
    content = io.BytesIO()
    while block := stream.read(_BLOCK):
        content.write(block)
        if content.tell() > _MAX_WHOLE:
            raise InputError(url, "the server hands the file out only whole, and it is too large", "download it first")
    if size is not None and content.tell() != size:
        raise InputError(url, f"{content.tell()} of {size} bytes arrived", "try again, or download it first")
    content.seek(0)
    return content
