"""Opens the micrographs of a run as they were segmented."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from microseg_ray.errors import InputError
from microseg_ray.settings import Scaling, SourceSettings
from microseg_ray.sources import View, fingerprint, member_path, open_view

if TYPE_CHECKING:
    from microseg_ray.runs.folder import Run
    from microseg_ray.runs.store.masks import MaskStore
    from microseg_ray.runs.store.spec import MaskSpec
    from microseg_ray.sources import Micrograph

__all__ = ["open_of_run", "require_unchanged"]


class Described(Protocol):
    """A mask, open or not, as its store describes it."""

    @property
    def identity(self) -> dict[str, Any]:
        """What the pixels are bound to."""
        ...

    @property
    def spec(self) -> MaskSpec:
        """Its shape."""
        ...


def open_of_run(run: Run, name: str, store: Described) -> Micrograph:
    """Open a micrograph of a run as it was segmented, on the grid of its mask.

    Args:
        run: The run.
        name: The micrograph's path below the archive.
        store: Its mask.

    Raises:
        InputError: The file is missing or its shape has changed.
    """
    record = store.identity.get("view")
    view = View(store.spec.shape) if record is None else View.of_record(record)
    source = SourceSettings(**run.document["settings"].get("source", {}))
    return open_view(member_path(str(run.document["archive"]), name), Scaling(), source, view)


def require_unchanged(run: Run, name: str, store: MaskStore) -> None:
    """Refuse a micrograph that is not the file any more that was segmented.

    Args:
        run: The run.
        name: The micrograph's path below the archive.
        store: Its mask.

    Raises:
        InputError: The file is missing, or its size, time or content is another.
    """
    path = member_path(str(run.document["archive"]), name)
    known = str(store.identity.get("fingerprint", ""))
    if known and fingerprint(path, "content" if known.startswith("sha256:") else "stat") != known:
        raise InputError(path, "has changed since it was segmented", "segment it again")
