"""Everything the jobs write in a fixed set of small runs, as one hash an artefact: equal lists mean equal output.

`python benchmarks/same_output.py [--keep FOLDER] > file`, before and after a change of the code; then
`diff -I '^#' before after`. The jobs are called by the command line alone, with the package beside this script. `--keep` leaves
all that the runs wrote in a folder, to look into what differs. The same interpreter, packages and kind of processor are needed:
torch's last bits depend on them. Takes six minutes on two cores, four CPU minutes.

A line is `step/path.part  sha256`. The parts:

    .exit             the exit code itself, not a hash
    .stdout           what the job printed; its error message too, where it failed (exit 1 or 2)
    .files            the names of all files in the output, also of those that are not looked into
    X.json, .identity canonical JSON: keys sorted, `identity` by itself
    X.csv, X.parquet  the rows, of a Parquet file the types too
    X.zarr.arrays     names, shapes, types and decoded values of all arrays
    X.zarr.attrs      attributes of all groups and arrays, the engine's `identity` by itself
    X.zarr.raw        the bytes of all chunk files: masks, counts, tiles
    X.zarr.metadata   the text of all zarr.json, in the order in which it was written
    .digest           the SHA-256 values (of models, tile stores) that were taken out of the text of the part before
    others            the bytes of a file: weights, micrographs, masks

Left out because they change from run to run: the keys `versions` and `seconds`, and a column `seconds`; lines of progress,
free disk space and seconds in what is printed; hidden files (.lock, .progress.json), logs of runs, time and host in the name of
TensorBoard's events; the digest of the classifier in classify.json, which covers the seconds of its training; the order of
failures.csv, and of the lines printed, with two Ray workers.
Not looked into: figures (PNG outside images/ and masks/), HTML, events, state.pt, ONNX files. Not run: `tune`, `demo`, GPUs.

The runs happen in one fixed folder below the system's temporary one, because the digest of a tile store holds absolute paths;
elsewhere the path is written as WORK. The times of change of all inputs are set, because fingerprints hold them.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import resource
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet
import tifffile
import zarr
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

ROOT = Path(__file__).resolve().parents[1]
WORK = Path(tempfile.gettempdir()) / "microseg_same_output"
TIME_NS = 1_700_000_000 * 10**9
VOLATILE = {"versions", "seconds"}
BYTES = {".safetensors", ".npy", ".tif", ".png"}
UNSTABLE = {"classify/sorted/classify.json.digest"}
PICTURES = {".tif", ".png"}
DATA_FOLDERS = {"images", "masks", "maps"}
# A digest stands alone; a fingerprint of an input has a colon before it and stays.
DIGEST = re.compile(r"(?<![0-9a-f:])[0-9a-f]{64}(?![0-9a-f])")
PROGRESS = re.compile(r"^[\w ]+: \d+ of \d+\b|GB free")
SECONDS = re.compile(r"\b\d+(\.\d+)? s\b")
Line = tuple[str, str]

STUDY = """\
classes: [matrix, grain, pore]
data:
  images: study/images
  masks: study/masks
  splits: {val: 0.2, test: 0.2}
  seed: 3
tile: {output: tiles, tile: 128, overlap: 32, workers: 0}
train:
  tiles: tiles
  output: model
  epochs: 2
  steps_per_epoch: 12
  workers: 0
  threads: 1
  seed: 5
  precision: fp32
  model: {name: unet, width: 4, depth: 2}
  loss: {cross_entropy: 1, dice: 1}
  optimizer: {learning_rate: 0.01}
  augment: {rotate: 20, noise: 0.02}
"""
FEI = "[Scan]\r\nPixelWidth=8e-07\r\nPixelHeight=8e-07\r\n"
SEGMENT = "--checkpoint model/best --threads 1 --shard 256 --tile 128 --workers 0"
EXACT = f"--archive bars/images {SEGMENT} --precision fp32"
MIXED = f"--archive mixed {SEGMENT} --precision fp32"
PAIRS = "--images study/images --masks study/masks"
CLASSES = """--classes '["matrix", "grain", "pore"]'"""
JUDGED = f"{CLASSES} --no-figures --threads 1"
CLASSIFIER = '--batch 4 --model.height 48 --model.width 48 --threads 1 --splits \'{"val": 0.25, "test": 0.25}\''


@dataclass(frozen=True)
class Step:
    """A call of a job.

    Attributes:
        name: What the lines begin with.
        command: The job and its options.
        outputs: Files and folders that are looked into afterwards.
        before: What is done first.
        ordered: Whether the lines printed and those of failures.csv come in the same order each time.
    """

    name: str
    command: str
    outputs: tuple[str, ...] = ()
    before: Callable[[], None] | None = None
    ordered: bool = True


def set_times(*folders: str) -> None:
    """Give all files the same time of change."""
    for file in (file for folder in folders for file in Path(WORK, folder).rglob("*") if file.is_file()):
        os.utime(file, ns=(TIME_NS, TIME_NS))


def write_study() -> None:
    (WORK / "study.yaml").write_text(STUDY, encoding="utf-8")
    set_times("study")


def grow_study() -> None:
    """Two micrographs more than the tile store holds."""
    for folder in ("images", "masks"):
        for file in sorted((WORK / "more" / folder).iterdir()):
            shutil.copy(file, WORK / "study" / folder / file.name.replace("grains", "more"))
    set_times("study")


def write_mixed() -> None:
    """Micrographs of one specimen whose files state other pixel sizes than the model's, none, or are broken."""
    folder = WORK / "mixed"
    (folder / "deeper").mkdir(parents=True)
    pixels = tifffile.imread(WORK / "study/images/grains_0000.tif")[:200, :260]
    tifffile.imwrite(folder / "trained.tif", pixels, resolution=(2, 2), imagej=True, metadata={"unit": "um"})
    tifffile.imwrite(folder / "finer.tif", pixels, resolution=(3, 3), imagej=True, metadata={"unit": "um"})
    tifffile.imwrite(folder / "deeper" / "coarser.tif", pixels, extratags=[(34682, "s", 0, FEI, True)])
    near = {"PhysicalSizeX": 0.52, "PhysicalSizeY": 0.52, "UUID": "urn:uuid:00000000-0000-0000-0000-000000000001"}
    tifffile.imwrite(folder / "near.ome.tif", pixels, metadata=near)
    Image.fromarray(pixels[:90, :70]).save(folder / "unknown.png")
    (folder / "broken.tif").write_bytes(b"II*\0no micrograph")
    set_times("mixed", "bars")


def write_drawn() -> None:
    """Polygon, rectangle, circle and ellipse on two micrographs, in VIA's format."""
    shapes = {
        "grains_0000.tif": [
            ("grain", {"name": "polygon", "all_points_x": [10, 200, 150], "all_points_y": [10, 40, 250]}),
            ("pore", {"name": "rect", "x": 90, "y": 60, "width": 40, "height": 25}),
        ],
        "grains_0001.tif": [
            ("grain", {"name": "circle", "cx": 100, "cy": 80, "r": 37.5}),
            ("scratch", {"name": "ellipse", "cx": 300, "cy": 200, "rx": 60, "ry": 20, "theta": 0.4}),
        ],
    }
    document = {
        name: {
            "filename": name,
            "size": 0,
            "file_attributes": {},
            "regions": [{"shape_attributes": shape, "region_attributes": {"class": kind}} for kind, shape in regions],
        }
        for name, regions in shapes.items()
    }
    (WORK / "drawn.json").write_text(json.dumps(document), encoding="utf-8")


def lose_shard() -> None:
    """Take a mask shard's ledger entry away, as if the run had been killed before it."""
    min((WORK / "crop/masks").glob("*.zarr/counts/c/0/0/0")).unlink()


STEPS = (
    Step("simulate", "simulate --preset grains --count 6 --size 320 --seed 1 --output study", ("study",)),
    Step(
        "simulate_bars",
        "simulate --count 2 --size '[300, 340]' --seed 2 --imaging.info_bar 24 --output bars",
        ("bars",),
    ),
    Step(
        "simulate_png", "simulate --preset mudrock --count 2 --size 256 --seed 3 --format png --output rock", ("rock",)
    ),
    Step("simulate_more", "simulate --preset grains --count 2 --size 320 --seed 4 --output more"),
    Step("simulate_classes", "simulate --preset coarse_fine --count 8 --size 96 --seed 5 --output kinds", ("kinds",)),
    Step("catalog", f"catalog {PAIRS} --splits '{{\"val\": 0.3}}' --output table.csv", ("table.csv",), write_study),
    Step("tile", "tile study.yaml", ("tiles",)),
    Step("tile_ray", "tile study.yaml --output tiles_ray --workers 2", ("tiles_ray",)),
    Step("tile_append", "tile study.yaml --output tiles_ray --append", ("tiles_ray",), grow_study),
    Step(
        "tile_table",
        f"tile --table table.csv {CLASSES} --workers 0 --fingerprint content --output tiles_table",
        ("tiles_table",),
    ),
    Step("audit", f"audit {PAIRS} --splits '{{\"val\": 0.3}}' --within --output leaks.csv", ("leaks.csv",)),
    Step("divide", "divide --images rock/images --masks rock/masks --output regions", ("regions",)),
    Step("train", "train study.yaml", ("model",)),
    Step("train_ray", "train study.yaml --output model_ray --workers 1", ("model_ray",)),
    Step("info", "info --json bars/images/grains_0000.tif mixed/finer.tif mixed/deeper/coarser.tif", (), write_mixed),
    Step("plan", f"plan {EXACT} --output crop"),
    Step("segment_crop", f"segment {EXACT} --extra probabilities --output crop", ("crop",)),
    Step("segment_again", f"segment {EXACT} --extra probabilities --output crop", ("crop",)),
    Step("segment_resumed", f"segment {EXACT} --extra probabilities --output crop", ("crop",), lose_shard),
    Step("segment_otherwise", f"segment {EXACT} --halo 8 --output crop"),
    Step("segment_ray_1", f"segment {EXACT} --extra margin --output ray_1 --workers 1", ("ray_1",)),
    Step(
        "segment_ray_2", f"segment {MIXED} --output ray_2 --workers 2 --fingerprint content", ("ray_2",), ordered=False
    ),
    Step("segment_halo", f"segment --archive bars/images {SEGMENT} --halo 8 --output halo", ("halo",)),
    Step("segment_hann", f"segment {EXACT} --blend hann --extra entropy --output hann", ("hann",)),
    Step("segment_gaussian", f"segment {EXACT} --blend gaussian --overlap 0.25 --output gaussian", ("gaussian",)),
    Step("segment_mean", f"segment {EXACT} --blend mean --extra margin --output mean", ("mean",)),
    Step("segment_tta", f"segment {EXACT} --tta --source.info_bar none --extra probabilities --output tta", ("tta",)),
    Step("segment_rescale", f"segment {MIXED} --on_scale_mismatch rescale --output rescale", ("rescale",)),
    Step(
        "segment_ignore", f"segment {MIXED} --on_scale_mismatch ignore --pixel_size_um 0.3 --output given", ("given",)
    ),
    Step("verify", "verify --run rescale --shards 3 --seed 1"),
    Step("probabilities", "probabilities --run tta --class_name grain --output maps", ("maps",)),
    Step("threshold_run", "threshold --run crop --class_name grain --threshold 0.3 --output above", ("above",)),
    Step("threshold_maps", "threshold --probabilities maps/maps --threshold 0.3 --output cut", ("cut",)),
    Step(
        "postprocess",
        "postprocess --run crop --min_speck 20 --min_hole 20 --majority 1 --workers 0 --output smooth",
        ("smooth",),
    ),
    Step("measure", "measure --run smooth --pixel_size_um 0.25 --sections 64 --find pore", ("smooth",)),
    Step("report", "report --run rescale", ("rescale",)),
    Step(
        "evaluate",
        f"evaluate study.yaml --checkpoint model/best --split test --sections 64 --output judged {JUDGED}",
        ("judged",),
    ),
    Step(
        "evaluate_run",
        f"evaluate --images bars/images --masks bars/masks --predictions crop --output judged_run {JUDGED}",
        ("judged_run",),
    ),
    Step(
        "annotate",
        "annotate --images study/images --annotations drawn.json --output drawn "
        f"""{CLASSES} --class_values '{{"scratch": "ignore"}}'""",
        ("drawn",),
        write_drawn,
    ),
    Step("classifier", f"classifier --images kinds/images --epochs 2 {CLASSIFIER} --output sorter", ("sorter",)),
    Step(
        "classify",
        "classify --archive kinds/images --checkpoint sorter/best --truth --threads 1 --output sorted",
        ("sorted",),
    ),
    Step("export", "export --checkpoint model/best --output exported/model.onnx", ("exported",)),
    Step("unknown_key", "segment study.yaml --archiv bars"),
)


def sha(*parts: bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "little") + part)
    return found.hexdigest()


def text_lines(name: str, text: str) -> Iterator[Line]:
    """The line of a text without digests and the place of the work, and that of the digests."""
    text = text.replace(str(WORK), "WORK")
    yield name, sha(DIGEST.sub("DIGEST", text).encode())
    if digests := DIGEST.findall(text):
        yield f"{name}.digest", sha("\n".join(digests).encode())


def without_volatile(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_volatile(item) for key, item in value.items() if key not in VOLATILE}
    return [without_volatile(item) for item in value] if isinstance(value, list) else value


def json_lines(name: str, document: Any) -> Iterator[Line]:
    document = without_volatile(document)
    if isinstance(document, dict) and "identity" in document:
        identity = document.pop("identity")
        yield from text_lines(f"{name}.identity", json.dumps(identity, sort_keys=True))
    yield from text_lines(name, json.dumps(document, sort_keys=True))


def rows_of(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file))


def table_lines(name: str, header: list[str], rows: Iterable[Iterable[Any]], kinds: str = "") -> Iterator[Line]:
    kept = [index for index, column in enumerate(header) if column not in VOLATILE]
    cells = [[row[index] for index in kept] for row in (header, *map(list, rows)) if row]
    yield from text_lines(name, json.dumps([kinds, cells], default=str))


def parquet_lines(name: str, path: Path) -> Iterator[Line]:
    table = pyarrow.parquet.read_table(path)
    rows = ([row[column] for column in table.column_names] for row in table.to_pylist())
    yield from table_lines(name, table.column_names, rows, table.schema.to_string(show_schema_metadata=True))


def zarr_lines(name: str, path: Path) -> Iterator[Line]:
    """The lines of a zarr group or array."""
    top = zarr.open(path, mode="r")
    members = {"": top, **(dict(top.members(max_depth=None)) if isinstance(top, zarr.Group) else {})}
    parts = []
    for key, array in sorted((key, item) for key, item in members.items() if isinstance(item, zarr.Array)):
        values = np.asarray(array[...])
        parts += [f"{key} {values.shape} {values.dtype}".encode(), values.tobytes()]
    yield f"{name}.arrays", sha(*parts)
    attributes = {key: dict(item.attrs) for key, item in sorted(members.items())}
    if "identity" in attributes[""].get("microseg", {}):
        own = dict(attributes[""].pop("microseg"))
        attributes |= {"identity": own.pop("identity"), "microseg": own}
    yield from json_lines(f"{name}.attrs", attributes)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    chunks = [file for file in files if file.name != "zarr.json"]
    raw = ((file.relative_to(path).as_posix().encode(), file.read_bytes()) for file in chunks)
    yield f"{name}.raw", sha(*(part for pair in raw for part in pair))
    texts = (file.read_text(encoding="utf-8") for file in files if file.name == "zarr.json")
    yield from text_lines(f"{name}.metadata", "\n".join(texts))


def file_lines(name: str, path: Path, *, ordered: bool) -> Iterator[Line]:
    """The lines of a file or a zarr folder; none where it is not looked into."""
    if path.suffix == ".zarr":
        yield from zarr_lines(name, path)
    elif path.suffix == ".json":
        yield from json_lines(name, json.loads(path.read_text(encoding="utf-8")))
    elif path.suffix == ".csv":
        header, *rows = rows_of(path) or [[]]
        yield from table_lines(name, header, rows if ordered or path.name != "failures.csv" else sorted(rows))
    elif path.suffix == ".parquet":
        yield from parquet_lines(name, path)
    elif path.suffix in BYTES and (path.suffix not in PICTURES or DATA_FOLDERS & set(Path(name).parts)):
        yield name, sha(path.read_bytes())


def outputs_in(folder: Path) -> Iterator[Path]:
    """Files below a folder, a zarr folder counting as one; none that are hidden."""
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or (path.parent.name == "logs" and path.suffix == ".jsonl"):
            continue
        if path.is_dir() and path.suffix != ".zarr":
            yield from outputs_in(path)
        else:
            yield path


def output_lines(step: Step) -> Iterator[Line]:
    for output in step.outputs:
        place = WORK / output
        paths = list(outputs_in(place)) if place.is_dir() else [place] if place.exists() else []
        names = [re.sub(r"(tfevents)\..*", r"\1", path.relative_to(WORK).as_posix()) for path in paths]
        yield f"{step.name}/{output}.files", sha("\n".join(names).encode())
        for path, name in zip(paths, names, strict=True):
            yield from file_lines(f"{step.name}/{name}", path, ordered=step.ordered)


def printed(text: str) -> str:
    """What a job says, without what differs from run to run."""
    lines = (line for line in text.splitlines() if not PROGRESS.search(line))
    return SECONDS.sub("T s", "\n".join(lines))


def run(step: Step) -> Iterator[Line]:
    """Run a job and look at what it wrote."""
    if step.before:
        step.before()
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MICROSEG_")}
    surroundings = {**clean, "PYTHONPATH": str(ROOT), "COLUMNS": "300", "NO_COLOR": "1", "TERM": "dumb"}
    command = [sys.executable, "-m", "microseg_ray.cli", *shlex.split(step.command)]
    done = subprocess.run(command, cwd=WORK, env=surroundings, capture_output=True, text=True, check=False)
    yield f"{step.name}.exit", str(done.returncode)
    said = printed(done.stdout) + (printed(done.stderr) if done.returncode in {1, 2} else "")
    (WORK / "printed").mkdir(exist_ok=True)
    (WORK / "printed" / f"{step.name}.txt").write_text(said, encoding="utf-8")
    (WORK / "printed" / f"{step.name}.log").write_text(done.stderr, encoding="utf-8")
    yield from text_lines(f"{step.name}.stdout", said if step.ordered else "\n".join(sorted(said.splitlines())))
    yield from output_lines(step)


def heading() -> str:
    """The commit and the versions of what decides the bytes."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "zarr", "numpy", "ray"))
    return f"# commit {commit or 'unknown'}, python {sys.version.split()[0]}, {versions}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--keep", type=Path, help="folder that all that was written is moved to")
    keep = parser.parse_args().keep
    if keep and keep.exists():
        sys.exit(f"{keep}: exists already; give another folder")
    try:
        WORK.mkdir()
    except FileExistsError:
        sys.exit(f"{WORK}: is in use, or left over from a run that was killed; remove it then")
    try:
        print(heading(), flush=True)
        for step in STEPS:
            begun = time.monotonic()
            for name, value in run(step):
                if name not in UNSTABLE:
                    print(f"{name}  {value}", flush=True)
            print(f"{step.name}: {time.monotonic() - begun:.1f} s", file=sys.stderr)
    finally:
        if keep:
            shutil.move(WORK, keep)
        else:
            shutil.rmtree(WORK)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"{used.ru_utime + used.ru_stime:.0f} CPU seconds of jobs", file=sys.stderr)


if __name__ == "__main__":
    main()
