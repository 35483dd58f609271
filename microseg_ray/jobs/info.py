"""The info job: prints what the engine sees in files."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.markup import escape

from microseg_ray.jobs.console import DONE, QUARANTINED, StartRay, console, print_accounts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from microseg_ray.models.card import ModelCard
    from microseg_ray.settings import InfoSettings, SourceSettings

__all__ = ["info"]


def info(settings: InfoSettings, _start: StartRay) -> int:
    """Say what the engine sees in files."""
    from microseg_ray.accounts import Account
    from microseg_ray.errors import InputError
    from microseg_ray.models.card import read_card
    from microseg_ray.models.computing import decide_runtime

    card = None if settings.checkpoint is None else read_card(settings.checkpoint)
    # What `runtime: auto` comes to here, with segment's precision.
    computing = None if card is None else decide_runtime(str(settings.checkpoint), card, "auto", "bf16")
    failed, used = False, 0
    for path in settings.files:
        try:
            with _stdout_on_stderr():
                seen = _description(path, settings.source)
                if card is not None and computing is not None:
                    seen |= _against(path, card, settings) | {
                        "runtime": computing.words,
                        "runtime_note": computing.note,
                    }
        except InputError as error:
            failed = True
            if settings.as_json:
                _print_json({"path": path, "error": error.reason, "advice": error.advice})
            else:
                console.print(f"[yellow]{escape(path)}[/]: {escape(str(error).removeprefix(f'{path}: '))}")
            continue
        failed |= bool(seen.get("objections"))
        if settings.as_json:
            _print_json(seen)
        else:
            _print_info(seen)
        used += 1
    if not settings.as_json:
        print_accounts([Account("files", len(settings.files), used, len(settings.files) - used)])
    return QUARANTINED if failed else DONE


def _print_json(values: dict[str, Any]) -> None:
    # Not by the console, which breaks lines.
    print(json.dumps(values), flush=True)


@contextmanager
def _stdout_on_stderr() -> Iterator[None]:
    """What libraries print while a file is opened goes to standard error, from Python and from C alike."""
    sys.stdout.flush()
    try:
        kept = os.dup(1)
    except OSError:
        # Closed, as under a service: nothing can be printed there.
        with redirect_stdout(sys.stderr):
            yield
        return
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 1)
        os.close(kept)


def _against(path: str, card: ModelCard, settings: InfoSettings) -> dict[str, Any]:
    """What does not fit a checkpoint, in plain JSON types."""
    from microseg_ray.runs.compare import compared

    found = compared(path, card, settings.source)
    return {
        "checkpoint": settings.checkpoint,
        "objections": list(found.objections),
        "checkpoint_notes": list(found.notes),
    }


def _description(path: str, source: SourceSettings) -> dict[str, Any]:
    """A file as `segment` would see it, in plain JSON types."""
    from microseg_ray.settings import Scaling
    from microseg_ray.sources import open_prepared
    from microseg_ray.sources.specimen.intensity import intensity_range

    with open_prepared(path, Scaling(), source) as micrograph:
        low, high = intensity_range(micrograph)
        info = asdict(micrograph.info)
    parts = info.pop("parts")
    info.pop("file_shape")
    return {**info, **parts, "path": path, "intensity_low": low, "intensity_high": high}


def _print_info(seen: dict[str, Any]) -> None:
    size = "unknown" if seen["pixel_size_um"] is None else "{:g} x {:g} um".format(*seen["pixel_size_um"])
    source = f" ({seen['pixel_size_source']})" if seen["pixel_size_source"] else ""
    lazily = "regions are read lazily" if seen["lazy"] else f"decoded whole, {seen['decoded_bytes'] / 1e6:.1f} MB"
    bar = f"{seen['info_bar_rows']} rows at the bottom" if seen["info_bar_rows"] else "none"
    found = f" ({seen['info_bar_source']})" if seen["info_bar_source"] else ""
    channel = "as it is" if seen["channel"] is None else f"channel {seen['channel']}"
    height, width = seen["shape"]
    lines = [
        f"{seen['format']}, {height} x {width} px (height x width), {seen['channels']} channel, {seen['dtype']}; {lazily}",
        f"page {seen['page']} of {seen['pages']}; channels: {', '.join(seen['channel_names'])}, read: {channel}",
        f"pixel size (y x x): {size}{source}",
        *seen["pixel_size_notes"],
        *seen["notes"],
        f"info bar: {bar}{found}",
        f"intensity: {seen['intensity_low']:g} to {seen['intensity_high']:g}",
    ]
    if "checkpoint" in seen:
        lines += [f"objection: {reason}: segment stops here by default" for reason in seen["objections"]]
        lines += [f"note: {note}" for note in seen["checkpoint_notes"]]
        if not seen["objections"]:
            lines.append(f"fits {seen['checkpoint']}")
        lines.append(
            f"would be computed by {seen['runtime']}" + f"; {seen['runtime_note']}" * bool(seen["runtime_note"])
        )
    console.print(f"[bold]{escape(seen['path'])}[/]")
    for line in lines:
        console.print(f"  {escape(line)}")
