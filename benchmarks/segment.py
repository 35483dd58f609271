"""`segment` at its defaults beside the bare forward pass and MONAI: one micrograph from a file to a mask on disk.

Counted are the CPU seconds after a warm-up on a small micrograph: reading, loading the model, computing, stitching, writing,
finishing. `bare forward` computes exactly the pixels of the micrograph in tiles without a halo, and writes nothing: no
method can be faster with this runtime.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Table, Used, in_turns, measured, ratios, run_named
from benchmarks.material import make_checkpoint, make_micrograph, segment_archive, write_micrograph

BASE = "bare forward"


def way(arguments: dict[str, Any]) -> None:
    """Dispatch to the method."""
    match arguments["method"]:
        case "bare":
            bare(arguments)
        case "segment":
            segment(arguments)
        case "monai":
            monai(arguments)
        case other:
            raise SystemExit(f"method {other!r} is unknown")


def bare(arguments: dict[str, Any]) -> None:
    from microseg_ray.models.predictor import load_predictor

    image, side = make_micrograph(*arguments["shape"]), arguments["tile"]
    predictor = load_predictor(arguments["checkpoint"], threads=1, runtime=arguments["runtime"])
    predictor.masks(image[None, None, :side, :side], (0.0, 255.0))

    def work() -> dict[str, Any]:
        pixels = 0
        for top in range(0, image.shape[0] - side + 1, side):
            for left in range(0, image.shape[1] - side + 1, side):
                pixels += predictor.masks(image[None, None, top : top + side, left : left + side], (0.0, 255.0)).size
        return {"pixels": pixels}

    measured(work)


def segment(arguments: dict[str, Any]) -> None:
    options = ["--workers", "0", "--threads", "1", *arguments.get("options", ())]

    with tempfile.TemporaryDirectory() as name:
        segment_archive(arguments["small"], arguments["checkpoint"], f"{name}/small", options)

        def work() -> dict[str, Any]:
            segment_archive(arguments["file"], arguments["checkpoint"], f"{name}/run", options)
            return {"pixels": int(np.prod(arguments["shape"]))}

        measured(work)
        keep_mask(Path(name) / "run", arguments["keep"])


def keep_mask(run: Path, keep: str | None) -> None:
    import zarr

    if keep:
        store = next(path for path in sorted(run.glob("masks/*.zarr")))
        np.save(keep, np.asarray(zarr.open_array(store / "0", mode="r")[...]).squeeze())


def monai(arguments: dict[str, Any]) -> None:
    import tifffile
    import torch
    from monai.inferers import sliding_window_inference

    from microseg_ray.models.predictor import load_predictor

    predictor = load_predictor(arguments["checkpoint"], threads=1, runtime=arguments["runtime"])

    def predict(window: torch.Tensor) -> torch.Tensor:
        return torch.from_numpy(predictor.logits(window.numpy(), (0.0, 255.0)))

    side = arguments["roi"]
    predict(torch.zeros((1, 1, side, side)))
    with tempfile.TemporaryDirectory() as name:

        def work() -> dict[str, Any]:
            image = torch.from_numpy(tifffile.imread(arguments["file"]))[None, None].float()
            scores = sliding_window_inference(
                image, (side, side), 1, predict, overlap=arguments["overlap"], mode=arguments["mode"]
            )
            # The peer's users call argmax; that it is slow on class-first tensors is their price.
            mask = scores.argmax(dim=1)[0].to(torch.uint8).numpy()
            np.save(f"{name}/mask.npy", mask)
            if arguments["keep"]:
                np.save(arguments["keep"], mask)
            return {"pixels": mask.size}

        measured(work)


def run(arguments: list[str]) -> list[Table]:
    """The table of `python -m benchmarks segment`."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks segment", description=__doc__)
    parser.add_argument("--side", type=int, nargs="+", default=[4096])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--model", default="resunet", help="with random weights; efficientnet_unet is what train fits by default"
    )
    parser.add_argument("--roi", type=int, default=1024, help="window of MONAI and tile of the bare pass, px")
    parser.add_argument("--runtime", default="openvino", help="of the bare pass and of MONAI's second and third row")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument(
        "--only", nargs="+", default=[], help="parts of the names of the ways to run beside the bare pass"
    )
    chosen = parser.parse_args(arguments)
    tables = []
    for side in chosen.side:
        command = " ".join(["python -m benchmarks segment", *arguments])
        columns = ("way", "MPix per CPU s", "MPix per s", f"share of {BASE}", "pixels unlike segment", "peak MiB")
        table = Table("segment", command, columns)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            shared = {
                "checkpoint": str(make_checkpoint(folder / "checkpoint", chosen.model)),
                "file": str(write_micrograph(folder / "large.tif", side, side)),
                "small": str(write_micrograph(folder / "small.tif", 96, 96)),
                "shape": (side, side),
            }
            ways = {
                label: way
                for label, way in ways_of(chosen, shared, folder).items()
                if label == BASE or not chosen.only or any(part in label for part in chosen.only)
            }
            found = in_turns("benchmarks.segment", ways, chosen.rounds)
            add_rows(table, found, ways, "segment, defaults", f"{side}: ")
        table.notes.append(
            f"{side} x {side} px, uint8, uncompressed TIFF, `{chosen.model}` with random weights; one thread, one process, "
            f"without Ray; medians of {chosen.rounds} rounds, ratios of CPU seconds within a round. Loading the model "
            "and compiling count."
        )
        tables.append(table)
    return tables


def add_rows(
    table: Table, found: dict[str, list[Used]], ways: dict[str, dict[str, Any]], reference: str, prefix: str = ""
) -> None:
    """A row for each way: speed, share of the bare pass, and how its mask differs from that of the way `reference`."""
    share = ratios(found, BASE)
    for label, used in found.items():
        if not used:
            table.rows.append((label, "could not run", "", "", "", ""))
            continue
        rate = statistics.median(u.result["pixels"] / 1e6 / u.cpu for u in used)
        wall = statistics.median(u.result["pixels"] / 1e6 / u.wall for u in used)
        unlike = flips(ways[label].get("keep"), ways[reference]["keep"])
        peak = max(u.peak for u in used)
        table.rows.append((label, f"{rate:.2f}", f"{wall:.2f}", f"{share[label]:.2f}", unlike, f"{peak:.0f}"))
        table.figures[f"{prefix}{label} / {BASE}"] = round(share[label], 3)


def ways_of(chosen: argparse.Namespace, shared: dict[str, Any], folder: Path) -> dict[str, dict[str, Any]]:
    """Our defaults, ours by other paths, and MONAI: as its users run it, and as exact as it gets."""
    from microseg_ray.geometry import floor_to
    from microseg_ray.models.card import read_card_and_digest

    field = read_card_and_digest(shared["checkpoint"])[0].receptive_field
    # Windows that share twice the radius, with steps of whole strides: as exact as windows can be.
    step = max(field.stride, floor_to(chosen.roi - 2 * field.radius, field.stride))
    exact = 1 - step / chosen.roi
    ours = {"method": "segment", **shared}
    ways = {
        BASE: {"method": "bare", "runtime": chosen.runtime, "tile": chosen.roi, **shared},
        "segment, defaults": {**ours, "keep": str(folder / "ours.npy")},
        "segment, tiles": {**ours, "keep": str(folder / "tiles.npy"), "options": ["--path", "tiles"]},
        "segment, torch": {**ours, "keep": str(folder / "torch.npy"), "options": ["--runtime", "torch"]},
    }
    if chosen.no_peers:
        return ways
    peer = {"method": "monai", "roi": chosen.roi, **shared}
    ways |= {
        "MONAI, torch, overlap .25, gaussian": {
            **peer, "runtime": "torch", "overlap": 0.25, "mode": "gaussian", "keep": str(folder / "monai.npy"),
        },
        f"MONAI, {chosen.runtime}, overlap .25, gaussian": {
            **peer, "runtime": chosen.runtime, "overlap": 0.25, "mode": "gaussian", "keep": str(folder / "monai2.npy"),
        },
        f"MONAI, {chosen.runtime}, overlap {exact:.2f}, gaussian": {
            **peer, "runtime": chosen.runtime, "overlap": exact, "mode": "gaussian", "keep": str(folder / "monai3.npy"),
        },
    }  # fmt: skip
    return ways


def flips(path: str | None, reference: str) -> str:
    """How many pixels have another class than in the mask of `segment`."""
    if not path or not Path(path).exists() or not Path(reference).exists():
        return "-"
    mask, ours = np.load(path), np.load(reference)
    different = int(np.count_nonzero(mask != ours))
    return f"{different} ({100 * different / ours.size:.3g} %)"


if __name__ == "__main__":
    run_named(way)
