"""What the runs that are made from a run share: their folder, their document and their masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from microseg_ray.errors import SettingsError, StoreError
from microseg_ray.files import lies_in
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.runs.store.spec import MaskSpec
from microseg_ray.runs.worker import reusable_store

if TYPE_CHECKING:
    from microseg_ray.files import Place
    from microseg_ray.runs.folder import Run

__all__ = ["PARENT_KEYS", "open_masks", "parent_record", "refuse_harm"]

PARENT_KEYS = (
    "settings",
    "archive",
    "source",
    "checkpoint",
    "classes",
    "verdict",
    "verdict_reason",
    "fingerprint",
    "model_pixel_size_um",
    "calibration",
    "not_taken",
)
"""Keys of run.json that a run made from another takes over."""


def refuse_harm(parent: Run, output: Place, job: str) -> None:
    """Refuse an output that is the run that is read, or lies in it, or around it.

    Args:
        parent: The run that is read.
        output: Folder of the new run.
        job: Whose setting it is, for the message.

    Raises:
        SettingsError: Writing there would harm the parent.
    """
    own, there = output.resolve(), parent.folder.resolve()
    if own == there or lies_in(own, there / "masks") or lies_in(there, own / "masks"):
        raise SettingsError(
            f"{job}.output: {output} is, or lies in, the run that is read; give another folder, results are never mixed"
        )


def parent_record(parent: Run) -> dict[str, Any]:
    """What run.json takes over from the parent, and who the parent is.

    Args:
        parent: The run that is read.
    """
    return {
        **{key: parent.document[key] for key in PARENT_KEYS if key in parent.document},
        "parent": {"path": str(parent.folder), "identity": dict(parent.document["identity"])},
    }


def open_masks(run: Run, parent: Run, name: str) -> tuple[MaskStore, MaskStore]:
    """The parent's mask of a micrograph, and the new run's: as an earlier try left it if that is still good, else empty.

    Args:
        run: The new run.
        parent: The run that is read.
        name: The micrograph.

    Raises:
        StoreError: The parent's mask is not finished.
    """
    source = MaskStore.open(parent.store_path(name))
    if not source.finished or source.missing():
        raise StoreError("its mask is not finished in the run that is read; run segment there again first")
    identity = {**source.identity, "pixels": dict(run.identity.pixels)}
    spec = MaskSpec(source.spec.shape, run.classes, source.spec.shard)
    path = str(run.store_path(name))
    return source, reusable_store(path, spec, identity) or MaskStore.create(path, spec, identity)
