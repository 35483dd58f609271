"""zarr's own store for objects, with keys below a folder of a bucket and with the errors of this package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zarr.storage import ObjectStore

from microseg_ray.files.client import reaching
from microseg_ray.files.objects import ObjectPath

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Iterable

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

__all__ = ["object_store"]


class _Objects(ObjectStore[Any]):
    """zarr's own store for objects, below a folder of a bucket, with errors that say what to do and that are no damage.

    zarr writes a `zarr.json` into each folder between the root of a store and a group: the root is the mask's own folder
    therefore, while all masks of a bucket share one client and its connections.

    Args:
        store: The client of the bucket.
        folder: What lies before each key.
    """

    def __init__(self, store: Any, folder: str = "", *, read_only: bool = False) -> None:
        super().__init__(store, read_only=read_only)
        self._folder = folder

    def with_read_only(self, read_only: bool = False) -> _Objects:
        return type(self)(self.store, self._folder, read_only=read_only)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Objects) and other._folder == self._folder and super().__eq__(other)

    __hash__ = None  # type: ignore[assignment]

    def __reduce__(self) -> tuple[Any, ...]:
        # Another process takes its credentials from its own environment.
        return _opened, (self.store.config["bucket"], self._folder, self.read_only)

    def _key(self, key: str) -> str:
        return f"{self._folder}/{key}"

    def _inner(self, key: str) -> str:
        return key.removeprefix(f"{self._folder}/")

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        with reaching(self._key(key)):
            return await super().get(self._key(key), prototype, byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, wanted) for key, wanted in key_ranges]

    async def exists(self, key: str) -> bool:
        with reaching(self._key(key)):
            return await super().exists(self._key(key))

    async def getsize(self, key: str) -> int:
        with reaching(self._key(key)):
            return await super().getsize(self._key(key))

    async def set(self, key: str, value: Buffer) -> None:
        with reaching(self._key(key), writing=True):
            await super().set(self._key(key), value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        # A write on a condition is not tried again after a reset, because it may have been done. One job writes a store, so
        # that nobody can write this key in between.
        if not await self.exists(key):
            await self.set(key, value)

    async def delete(self, key: str) -> None:
        ObjectPath(self.store.config["bucket"], self._key(key)).unlink(missing_ok=True)

    async def delete_dir(self, prefix: str) -> None:
        ObjectPath(self.store.config["bucket"], self._key(prefix).strip("/")).delete_below()

    async def _list(self, prefix: str | None = None) -> AsyncGenerator[Any, None]:
        with reaching(self._folder):
            async for each in super()._list(self._key(prefix or "")):
                yield {**each, "path": self._inner(each["path"])}

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        folder = self._key(prefix).rstrip("/")
        with reaching(folder):
            found = await self.store.list_with_delimiter_async(f"{folder}/")
        for key in (*(each["path"] for each in found["objects"]), *found["common_prefixes"]):
            yield key.strip("/").rpartition("/")[2]


def _opened(bucket: str, folder: str, read_only: bool) -> _Objects:
    return _Objects(ObjectPath(bucket).client, folder, read_only=read_only)


def object_store(folder: ObjectPath) -> ObjectStore[Any]:
    """The store of a folder of a bucket."""
    return _Objects(folder.client, folder.key)
