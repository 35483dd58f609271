"""Objects of an S3 store, by the part of `pathlib.Path` that jobs use: names, reading, listing, deleting.

Credentials and the address of the store come from the environment alone (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
`AWS_ENDPOINT_URL`, `AWS_REGION`, `AWS_SKIP_SIGNATURE`), so that no settings, log or message can hold them. Each request is
repeated with growing pauses where the server fails (5xx, `SlowDown`), the connection breaks or an answer does not come.
"""

from __future__ import annotations

import io
import os
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import IO, TYPE_CHECKING, Any

from microseg_ray.errors import StoreError
from microseg_ray.files.client import SCHEME, client_of, delete_surely, reaching

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from obstore.store import S3Store

__all__ = ["ObjectPath", "is_object_url"]

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


def is_object_url(where: object) -> bool:
    """Whether this is the address of an object store that outputs can be written to.

    Example:
        >>> is_object_url("s3://bucket/run"), is_object_url("/data/run"), is_object_url("https://host/run")
        (True, False, False)
    """
    return str(where).lower().startswith(SCHEME)


@dataclass(frozen=True)
class _Stat:
    st_size: int
    st_mtime: float


@dataclass(frozen=True, order=True)
class ObjectPath:
    """The name of an object, or of a folder: what begins with it and a slash. Nothing is asked of the store to make one.

    Attributes:
        bucket: The bucket.
        key: Parts with slashes between them; empty for the bucket itself.

    Example:
        >>> path = ObjectPath.of("s3://bucket/run/") / "masks" / "a.tif.zarr"
        >>> str(path), path.name, path.stem, path.suffix, str(path.parent)
        ('s3://bucket/run/masks/a.tif.zarr', 'a.tif.zarr', 'a.tif', '.zarr', 's3://bucket/run/masks')
    """

    bucket: str
    key: str = ""

    @classmethod
    def of(cls, url: str) -> ObjectPath:
        """The object of an address.

        Raises:
            StoreError: It names no bucket, or holds credentials, or `..`.

        Example:
            >>> ObjectPath.of("s3://key:secret@bucket/a")
            Traceback (most recent call last):
                ...
            microseg_ray.errors.StoreError: s3://...@bucket: an address must not hold credentials; ...
        """
        bucket, _, key = url[len(SCHEME) :].partition("/")
        if "@" in bucket:
            # The message must not repeat them.
            raise StoreError(
                f"{SCHEME}...@{bucket.rpartition('@')[2]}: an address must not hold credentials; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY in the environment"
            )
        parts = [part for part in key.split("/") if part not in {"", "."}]
        if _BUCKET.fullmatch(bucket) is None or ".." in parts or not is_object_url(url):
            raise StoreError(f"{url}: no address of an object store; give s3://BUCKET/FOLDER, without '..'")
        return cls(bucket, "/".join(parts))

    def __str__(self) -> str:
        """The address."""
        return f"{SCHEME}{self.bucket}" + (f"/{self.key}" if self.key else "")

    def __truediv__(self, name: str | PurePosixPath) -> ObjectPath:
        """What has this name below."""
        inner = "/".join(part for part in str(name).split("/") if part not in {"", "."})
        return ObjectPath(self.bucket, f"{self.key}/{inner}" if self.key and inner else self.key or inner)

    @property
    def _pure(self) -> PurePosixPath:
        return PurePosixPath("/" + self.key)

    @property
    def name(self) -> str:
        """The last part of the key; of a bucket its own name."""
        return self._pure.name or self.bucket

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The last suffix of the name."""
        return self._pure.suffix

    @property
    def parent(self) -> ObjectPath:
        """The folder that this lies in; a bucket lies in itself."""
        return ObjectPath(self.bucket, str(self._pure.parent).strip("/"))

    @property
    def parents(self) -> tuple[ObjectPath, ...]:
        """All folders that this lies in, the innermost first, the bucket last."""
        return tuple(ObjectPath(self.bucket, str(each).strip("/")) for each in self._pure.parents)

    def with_name(self, name: str) -> ObjectPath:
        """What has another name in the same folder."""
        return self.parent / name

    def relative_to(self, folder: ObjectPath) -> PurePosixPath:
        """The name below a folder.

        Raises:
            ValueError: It does not lie there.
        """
        if not self.is_relative_to(folder):
            raise ValueError(f"{self} does not lie in {folder}")
        return PurePosixPath(self.key[len(folder.key) :].lstrip("/"))

    def is_relative_to(self, folder: object) -> bool:
        """Whether it lies in a folder, or is that folder."""
        if not isinstance(folder, ObjectPath) or folder.bucket != self.bucket:
            return False
        return not folder.key or self.key == folder.key or self.key.startswith(f"{folder.key}/")

    def absolute(self) -> ObjectPath:
        """Itself."""
        return self

    def resolve(self) -> ObjectPath:
        """Itself."""
        return self

    def is_symlink(self) -> bool:
        """Object stores have no links."""
        return False

    def mkdir(self, *, parents: bool = True, exist_ok: bool = True) -> None:
        """Do nothing: a folder is there as soon as an object lies in it."""

    def exists(self) -> bool:
        """Whether there is such an object, or an object below."""
        return self.is_file() or self.is_dir()

    def is_file(self) -> bool:
        """Whether there is such an object."""
        try:
            self.stat()
        except FileNotFoundError:
            return False
        return True

    def is_dir(self) -> bool:
        """Whether there is an object below."""
        return any(self.below())

    def stat(self) -> _Stat:
        """Size in bytes, and seconds since the epoch of the last change by the store's clock.

        Raises:
            FileNotFoundError: There is no such object.
        """
        found = self._head()
        return _Stat(found["size"], found["last_modified"].timestamp())

    def entity_tag(self) -> str:
        """What changes with each writing of the object.

        Raises:
            FileNotFoundError: There is no such object.
        """
        return str(self._head()["e_tag"])

    def _head(self) -> Mapping[str, Any]:
        """What the store says of the object without sending it."""
        if not self.key:
            raise FileNotFoundError(str(self))
        with reaching(self):
            return self.client.head(self.key)

    def read_bytes(self) -> bytes:
        """The content.

        Raises:
            FileNotFoundError: There is no such object.
        """
        return self.read_version()[0]

    def read_version(self) -> tuple[bytes, str]:
        """The content and its entity tag.

        Raises:
            FileNotFoundError: There is no such object.
        """
        if not self.key:
            raise FileNotFoundError(str(self))
        with reaching(self):
            answer = self.client.get(self.key)
            return answer.bytes().to_bytes(), str(answer.meta["e_tag"])

    def read_end(self, count: int) -> bytes:
        """The last bytes.

        Raises:
            FileNotFoundError: There is no such object.
        """
        with reaching(self):
            return self.client.get(self.key, options={"range": {"suffix": count}}).bytes().to_bytes()

    def read_ranges(self, starts: list[int], lengths: list[int]) -> list[bytes]:
        """Parts of the content; near ones are fetched by one request.

        Raises:
            FileNotFoundError: There is no such object.
        """
        with reaching(self):
            return [bytes(part) for part in self.client.get_ranges(self.key, starts=starts, lengths=lengths)]

    def read_text(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """The content as text, with every end of a line as one character, as `pathlib` has it."""
        with self.open(encoding=encoding, errors=errors) as file:
            return str(file.read())

    def open(
        self, mode: str = "r", *, encoding: str = "utf-8", errors: str = "strict", newline: str | None = None
    ) -> IO[Any]:
        """Open for reading; the object is fetched whole.

        Raises:
            FileNotFoundError: There is no such object.
        """
        if mode not in {"r", "rb"}:
            raise ValueError(f"{self}: objects are written whole, not opened for writing")
        content = io.BytesIO(self.read_bytes())
        return content if mode == "rb" else io.TextIOWrapper(content, encoding=encoding, errors=errors, newline=newline)

    def below(self) -> Iterator[Mapping[str, Any]]:
        """All objects below, as obstore describes them (path, size, last_modified, e_tag), a page of a thousand at a time."""
        with reaching(self):
            for page in self.client.list(f"{self.key}/" if self.key else None):
                yield from page

    def iterdir(self) -> Iterator[ObjectPath]:
        """Objects and folders in this folder, sorted."""
        with reaching(self):
            found = self.client.list_with_delimiter(f"{self.key}/" if self.key else None)
        keys = [*(each["path"] for each in found["objects"]), *found["common_prefixes"]]
        return iter(sorted(ObjectPath(self.bucket, key.strip("/")) for key in keys))

    def unlink(self, *, missing_ok: bool = False) -> None:
        """Delete the object.

        Raises:
            FileNotFoundError: There is no such object, unless that is fine.
        """
        if not missing_ok:
            self.stat()
        with reaching(self):
            delete_surely(lambda: self.client.delete(self.key))

    def delete_below(self) -> None:
        """Delete all objects below."""
        keys: list[str] = [each["path"] for each in self.below()]
        with reaching(self):
            if keys:
                delete_surely(lambda: self.client.delete(keys))

    def write(self, content: bytes | Path) -> None:
        """Write the object, in place of an older one: readers see all of it or nothing.

        Args:
            content: Bytes, or a file whose bytes are taken.
        """
        with reaching(self, writing=True):
            self.client.put(self.key, content)

    def write_if(self, content: bytes, tag: str | None) -> str | None:
        """Write the object if it is still as it was.

        Args:
            content: The bytes.
            tag: The entity tag that it has; None: there is no such object.

        Returns:
            The new entity tag; None where the object is another one now, and nothing was written.
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        with reaching(self, writing=True):
            try:
                done = self.client.put(
                    self.key, content, mode="create" if tag is None else {"e_tag": tag}, use_multipart=False
                )
            except (AlreadyExistsError, PreconditionError):
                return None
        return str(done["e_tag"])

    @property
    def client(self) -> S3Store:
        """What sends the requests: one for each bucket in a process."""
        return client_of(self.bucket, tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))))
