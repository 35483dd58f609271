"""What lies behind a URL: its images by name, and what identifies the content of each."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import quote, unquote, urlsplit

from microseg_ray.errors import InputError
from microseg_ray.sources.remote import filesystem, open_binary, read_small, version

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["list_urls", "url_fingerprint", "url_member", "url_root"]

_READ_BYTES = 1 << 20
_METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs")
_MAX_METADATA_BYTES = 16 << 20


def list_urls(where: str, suffixes: Sequence[str]) -> tuple[list[tuple[str, str]], list[str]]:
    """The images of a remote folder, glob or file: (name below the root, URL), sorted; and the names of other files.

    Raises:
        InputError: Nothing is there, or nothing with one of the suffixes.

    Example:
        >>> list_urls("memory://no-such-folder", (".tif",))
        Traceback (most recent call last):
            ...
        microseg_ray.errors.InputError: memory://no-such-folder: no images found; supported are .tif
    """
    where = where.rstrip("/")
    root = url_root(where, suffixes)
    if _is_image(where, suffixes) and "*" not in where:
        return [(_name(where, root), where)], []
    opened, inner = filesystem(where)
    try:
        hits = opened.glob(inner) if "*" in where else opened.find(inner)
    except FileNotFoundError:
        hits = []
    except Exception as error:
        text = " ".join(str(error).split())[:200]
        reason = f"the server does not list its files ({type(error).__name__}: {text})"
        raise InputError(where, reason, "check the address, or name a single file") from error
    urls = _urls(hits, root)
    entries = {url: _entry(url, root, suffixes) for url in urls}
    found = {entry for entry in entries.values() if entry}
    if not found:
        raise InputError(where, "no images found", f"supported are {', '.join(suffixes)}")
    others = sorted(_name(url, root) for url, entry in entries.items() if not entry)
    return sorted((_name(url, root), url) for url in found), others


def url_root(where: str, suffixes: Sequence[str]) -> str:
    """What names are relative to: the folder, the folder of a file, the fixed part of a glob.

    Example:
        >>> url_root("https://host/a/b.tif?key=1", (".tif",)), url_root("memory://a/*/b.tif", (".tif",))
        ('https://host/a', 'memory://a')
    """
    where = where.rstrip("/")
    if "*" in where:
        return where[: where.index("*")].rpartition("/")[0]
    return _plain(where).rpartition("/")[0] if _is_image(where, suffixes) else where


def url_member(root: str, name: str) -> str:
    """The URL of a name below a root; in a web address its special characters are escaped.

    Example:
        >>> url_member("memory://a", "b #1.tif"), url_member("https://host", "b #1.tif")
        ('memory://a/b #1.tif', 'https://host/b%20%231.tif')
    """
    return f"{root.rstrip('/')}/{quote(name) if _is_web(root) else name}"


def url_fingerprint(url: str, kind: Literal["stat", "content"]) -> str:
    """As `fingerprint`, for a URL.

    Of a zarr folder all files count where the server lists them, else its metadata documents alone.

    Raises:
        InputError: Nothing is there.
    """
    members = _members(url) if _plain(url).lower().endswith(".zarr") else []
    if not members:
        size, token = version(url) if kind == "stat" else (0, "")
        return f"stat:{size}:{token}" if kind == "stat" else f"sha256:{_digest(url)[1]}"
    listing, total = hashlib.sha256(), 0
    for name, member in members:
        size, token = version(member) if kind == "stat" else _digest(member)
        total += size
        listing.update(f"{name}\0{size}\0{token}\n".encode())
    return f"stat:{total}:{listing.hexdigest()}" if kind == "stat" else f"sha256:{listing.hexdigest()}"


def _members(url: str) -> list[tuple[str, str]]:
    """The files of a remote zarr folder, by their name in it."""
    opened, inner = filesystem(url)
    try:
        hits: list[Any] = opened.find(inner)
    except Exception:  # noqa: BLE001 - a server that does not list says so in its own way
        hits = []
    if urls := sorted(_urls(hits, url)):
        return [(_name(hit, url), hit) for hit in urls]
    known = [name for name in _METADATA if read_small(f"{url}/{name}", _MAX_METADATA_BYTES) is not None]
    return [(name, f"{url}/{name}") for name in known]


def _urls(hits: Iterable[Any], root: str) -> list[str]:
    """Paths inside a file system as URLs, written as the root is."""
    _, inner = filesystem(root)
    return [f"{root}/{str(hit)[len(inner) :].strip('/')}" for hit in hits if str(hit).startswith(inner)]


def _digest(url: str) -> tuple[int, str]:
    """Bytes and sha256."""
    digest, size = hashlib.sha256(), 0
    try:
        with open_binary(url) as file:
            while block := file.read(_READ_BYTES):
                digest.update(block)
                size += len(block)
    except FileNotFoundError as error:
        raise InputError(url, "no such file", "check the address") from error
    return size, digest.hexdigest()


def _entry(url: str, root: str, suffixes: Sequence[str]) -> str | None:
    """The image that a listed file is, or is part of; None where it is none, or hidden."""
    parts = _plain(url)[len(root) :].strip("/").split("/")
    if any(part.startswith(".") for part in parts):
        return None
    for depth, part in enumerate(parts):
        if part.lower().endswith(".zarr"):
            return "/".join([root, *parts[: depth + 1]])
    return url if _is_image(url, suffixes) else None


def _name(url: str, root: str) -> str:
    name = _plain(url)[len(root) :].strip("/")
    return unquote(name) if _is_web(url) else name


def _is_image(url: str, suffixes: Sequence[str]) -> bool:
    return _plain(url).lower().endswith(tuple(suffixes))


def _plain(url: str) -> str:
    """Without what follows the path of a web address: a signature, say."""
    return urlsplit(url)._replace(query="", fragment="").geturl() if _is_web(url) else url


def _is_web(url: str) -> bool:
    return url.lower().startswith(("http://", "https://"))
