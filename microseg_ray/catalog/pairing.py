"""Which mask belongs to which micrograph, and which micrographs belong together, by their names alone."""

from __future__ import annotations

from collections import defaultdict
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from microseg_ray.errors import SettingsError
from microseg_ray.files import name_below
from microseg_ray.names import key as comparable
from microseg_ray.quarantine import Failure
from microseg_ray.sources import list_files, listing_root

if TYPE_CHECKING:
    from collections.abc import Sequence

    from microseg_ray.files import Place
    from microseg_ray.settings import DataSettings

__all__ = ["STAGE", "group_of", "mask_files", "pair"]

STAGE = "catalog"
_GROUP_SECONDS = 1.0


def mask_files(data: DataSettings) -> list[Place]:
    """The files that `data.masks` means, those with `data.mask_suffix` where it is set.

    Raises:
        SettingsError: None has the suffix.
    """
    files = list_files(data.masks or "")
    if not data.mask_suffix:
        return files
    named = [file for file in files if file.stem.endswith(data.mask_suffix)]
    if not named:
        raise SettingsError(
            f"data.mask_suffix {data.mask_suffix!r}: no file in {data.masks} has it, as {files[0].name}"
        )
    return named


def pair(
    data: DataSettings, images: Sequence[Place], masks_found: Sequence[Place]
) -> tuple[dict[Place, Place | None], list[Failure], set[Place]]:
    """The mask of each image, the images whose mask is not certain, and all masks that fit an image.

    `build_catalog` has the rule.
    """
    image_root, mask_root = listing_root(data.images or ""), listing_root(data.masks or "")
    near: dict[tuple[str, str], list[Place]] = defaultdict(list)
    anywhere: dict[str, list[Place]] = defaultdict(list)
    for mask in masks_found:
        key = comparable(mask.stem.removesuffix(data.mask_suffix))
        near[_folder(mask, mask_root), key].append(mask)
        anywhere[key].append(mask)
    masks: dict[Place, Place | None] = dict.fromkeys(images)
    failures: list[Failure] = []
    fitting: set[Place] = set()
    claims: dict[Place, list[tuple[bool, Place]]] = defaultdict(list)
    for image in images:
        key = comparable(image.stem.removesuffix(data.image_suffix))
        beside = near.get((_folder(image, image_root), key), [])
        found = beside or anywhere.get(key, [])
        fitting.update(found)
        if len(found) == 1:
            masks[image] = found[0]
            claims[found[0]].append((not beside, image))
        elif found:
            reason = f"two masks fit: {found[0]} and {found[1]}; remove one, or set data.mask_suffix"
            failures.append(Failure(str(image), STAGE, reason))
        else:
            reason = f"no mask named {key}{data.mask_suffix}.* in {data.masks}"
            failures.append(Failure(str(image), STAGE, reason))
    for mask, claimants in claims.items():
        failures += _disputed(mask, claimants)
    return masks, failures, fitting


def _folder(file: Place, root: Place) -> str:
    return comparable(PurePosixPath(name_below(file, root)).parent.as_posix())


def _disputed(mask: Place, claimants: list[tuple[bool, Place]]) -> list[Failure]:
    """Images that a mask cannot belong to, because it belongs to another, or to none for certain."""
    if len(claimants) == 1:
        return []
    owners = [image for far, image in claimants if not far]
    losers = [image for far, image in claimants if far] if len(owners) == 1 else [image for _, image in claimants]
    return [
        Failure(
            str(image),
            STAGE,
            f"its mask {mask} also fits {next(other for _, other in claimants if other != image)}; rename one of the images",
        )
        for image in losers
    ]


def group_of(data: DataSettings, image: Place, root: Place) -> str | None:
    """The group that the name of an image says; None where it does not match `data.group`."""
    if data.group is None:
        key = image.stem.removesuffix(data.image_suffix)
        return (PurePosixPath(name_below(image, root)).parent / key).as_posix()
    match = _searched(data.group, image.stem)
    if match is None:
        return None
    found = match.group(1) if match.re.groups else match.group(0)
    return str(found) if found else None


def _searched(expression: str, stem: str) -> Any:
    """`re.search` with an end: some expressions take years on a name that they do not match."""
    import regex

    try:
        return regex.search(expression, stem, timeout=_GROUP_SECONDS)
    except TimeoutError as error:
        reason = f"the expression took longer than {_GROUP_SECONDS:g} s on the name {stem!r}"
        advice = "write it without choices that fit the same text, repeated, such as (a|aa)+"
        raise SettingsError(f"group {expression!r}: {reason}; {advice}") from error
    except regex.error as error:
        raise SettingsError(f"group {expression!r}: is not a regular expression: {error}") from error
