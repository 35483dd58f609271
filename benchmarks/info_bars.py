"""Info bars: how many are found within 2 rows, by vendor style, JPEG quality and size; and false alarms.

python benchmarks/info_bars.py [--data ../shared/data] [--count 10]

Real: the files of faults/. Simulated: bars drawn in the style of each vendor into real micrographs that have none.
False alarms: every micrograph at hand with each of its four sides as the bottom, as it is and as JPEG 75.
"""

from __future__ import annotations

import argparse
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from microseg_ray.sources.specimen.info_bar import find_info_bar

FONTS = Path(__import__("matplotlib").get_data_path()) / "fonts" / "ttf"
FACES = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSansMono.ttf",
    "STIXGeneral.ttf",
    "DejaVuSerif.ttf",
    "cmss10.ttf",
)
QUALITIES = (0, 95, 90, 75, 60)
SIZES = (1.0, 0.5, 2.0)
PANELS = ("dark", "light", "gray", "down", "across")
REAL = {
    "zeiss_512_columns.tif": 34,
    "zeiss_1k.tif": 77,
    "zeiss_supra.tif": 56,
    "fei_q90.jpg": 59,
    "fei_half.tif": 29.5,
}
CLEAN = (
    "mudrock/images/*_a*",
    "mudrock/mosaics/*_images.png",
    "superalloy/train/*.tif",
    "superalloy/val/*.tif",
    "superalloy/test/*.tif",
    "coating/train/*.tif",
    "coating/val/*.tif",
    "coating/test/*.tif",
    "fracture/*.jpg",
    "meltpool/tiles/*.png",
    "ccd/*/train/*.png",
    "grains/*/*/*.png",
)


@dataclass
class Style:
    """How a vendor draws: height of the bar as a share of the width, panels, rows of specimen below, whether it covers."""

    height: tuple[float, float]
    panels: tuple[str, ...]
    lines: int
    frame: bool = False
    cells: bool = False
    rule: bool = False
    logo: bool = False
    colored: bool = False
    below: tuple[int, int] = (0, 0)


STYLES = {
    "FEI": Style((0.055, 0.075), ("dark",), 2, cells=True, logo=True),
    "Zeiss": Style((0.055, 0.1), ("light", "dark", "gray"), 2, frame=True, logo=True, below=(1, 2)),
    "Zeiss, green scale bar": Style((0.065, 0.1), ("light", "dark"), 2, frame=True, colored=True, below=(1, 2)),
    "JEOL": Style((0.05, 0.08), ("dark",), 1),
    "Hitachi": Style((0.045, 0.07), ("dark", "gray"), 1),
    "TESCAN": Style((0.08, 0.12), ("dark", "gray", "down"), 3, cells=True, rule=True, logo=True),
    "Phenom": Style((0.06, 0.1), ("light", "dark", "gray"), 2, logo=True, colored=True),
    "gray and gradient": Style((0.055, 0.1), ("gray", "down", "across"), 2),
}


def clean_files(data: Path) -> list[Path]:
    return [path for pattern in CLEAN for path in sorted(data.glob(pattern))]


def opened(path: Path, width: int = 0) -> np.ndarray:
    """(y, x, 3), 8 bits; as wide as most microscopes scan, where a width is given."""
    image = Image.open(path).convert("RGB")
    if width:
        image = image.resize((width, round(image.height * width / image.width)), Image.Resampling.BICUBIC)
    return np.array(image)


def background(kind: str, shape: tuple[int, int], generator: np.random.Generator) -> tuple[np.ndarray, int]:
    """A panel and its ink."""
    if kind in {"down", "across"}:
        low, high = generator.integers(0, 60), generator.integers(70, 130)
        ramp = np.linspace(low, high, shape[kind == "across"]).round()
        panel = np.broadcast_to(ramp[None] if kind == "across" else ramp[:, None], shape).astype(np.uint8)
        return panel, 255
    level = {"dark": (0, 40), "light": (225, 256), "gray": (90, 170)}[kind]
    value = (
        int(generator.choice([level[0], generator.integers(*level)]))
        if kind == "dark"
        else int(generator.integers(*level))
    )
    return np.full(shape, value, np.uint8), 255 if value < 128 else 0


def draw_bar(style: Style, width: int, generator: np.random.Generator) -> np.ndarray:
    """The bar alone, (y, x, 3)."""
    rows = max(30, round(width * generator.uniform(*style.height)))
    panel, ink = background(str(generator.choice(style.panels)), (rows, width), generator)
    image = Image.fromarray(panel).convert("RGB")
    draw = ImageDraw.Draw(image)
    color = (ink,) * 3
    size = max(9, round(rows * generator.uniform(0.28, 0.36) * (2 / max(1.7, style.lines))))
    font = ImageFont.truetype(FONTS / str(generator.choice(FACES)), size)
    texts = [
        "EHT = 20.00 kV", "WD = 10.1 mm", "Mag = 5.00 K X", "Signal A = InLens", "det ETD", "HV 15.0 kV", "x10,000",
        "Date: 18 Jul 2019", "SEI", "View field: 41.5 \u00b5m", "tilt -0 \u00b0", "S4800 5.0kV 8.2mm", "BSD Full",
    ]  # fmt: skip
    step = rows / style.lines
    for line in range(style.lines):
        x = width * 0.02
        while x < width * 0.5:
            text = str(generator.choice(texts))
            draw.text((x, line * step + (step - size * 1.15) / 2), text, color, font=font)
            x += draw.textlength(text, font=font) + width * generator.uniform(0.015, 0.06)
            if style.cells and line == 0 and x < width * 0.5:
                draw.line((x - width * 0.008, 0, x - width * 0.008, rows), color)
        if style.rule and line:
            draw.line((0, round(line * step), width, round(line * step)), color)
    left, y = width * generator.uniform(0.72, 0.76), rows * 0.72
    right = left + width * generator.uniform(0.05, 0.15)
    bar = (0, 200, 0) if style.colored else color
    draw.rectangle((left, y, right, y + max(1, rows * 0.03)), bar)
    draw.line((left, y - rows * 0.1, left, y + rows * 0.12), bar)
    draw.line((right, y - rows * 0.1, right, y + rows * 0.12), bar)
    draw.text((left, rows * 0.22), "10 \u00b5m", color, font=font)
    if style.logo:
        draw.rectangle((width * 0.92, rows * 0.12, width * 0.98, rows * 0.88), (70, 70, 80))
        draw.text((width * 0.93, rows * 0.35), "SEM", (250, 250, 250), font=font)
    if style.frame:
        draw.rectangle((1, 0, width - 2, rows - 1), outline=color)
    return np.asarray(image)


def with_bar(style: Style, micrograph: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, int]:
    """A micrograph with a bar, and the rows from the bar's upper edge to the bottom."""
    bar = draw_bar(style, micrograph.shape[1], generator)
    below = int(generator.integers(style.below[0], style.below[1] + 1))
    cut = micrograph[: max(len(micrograph), 5 * len(bar))]
    if below:  # The bar is drawn over the micrograph.
        image = cut.copy()
        image[-len(bar) - below : -below] = bar
    else:
        image = np.concatenate([cut, bar])
    return image, len(bar) + below


def variant(image: Image.Image, size: float, quality: int) -> np.ndarray:
    """Resized, then compressed; quality 0 is without loss."""
    if size != 1:
        image = image.resize((round(image.width * size), round(image.height * size)), Image.Resampling.BICUBIC)
    if quality:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        image = Image.open(buffer)
    pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else np.moveaxis(pixels, 2, 0)


def found(pixels: np.ndarray) -> int:
    return find_info_bar(lambda box: pixels[(slice(None), *box.slices)], pixels.shape[1:])


def recall_table(cases: dict[str, list[tuple[np.ndarray, float]]], verbose: bool) -> None:
    print("| bars | number |" + "".join(f" {name(s, q)} |" for s in SIZES for q in QUALITIES))
    print("|---|---|" + "---|" * (len(SIZES) * len(QUALITIES)))
    totals = np.zeros((len(SIZES), len(QUALITIES)), int)
    number = 0
    for label, images in cases.items():
        hits = np.zeros_like(totals)
        for index, (image, rows) in enumerate(images):
            for (i, size), (j, quality) in ((a, b) for a in enumerate(SIZES) for b in enumerate(QUALITIES)):
                seen = found(variant(Image.fromarray(image), size, quality))
                hits[i, j] += abs(seen - rows * size) <= 2
                if verbose and abs(seen - rows * size) > 2:
                    print("  missed", label, index, size, quality, seen, rows * size)
        number += len(images)
        totals += hits
        print(f"| {label} | {len(images)} |" + "".join(f" {value} |" for value in hits.ravel()), flush=True)
    print(
        f"| **all** | {number} |" + "".join(f" {100 * value / number:.0f} % |" for value in totals.ravel()), flush=True
    )


def name(size: float, quality: int) -> str:
    how = f"JPEG {quality}" if quality else "lossless"
    return how if size == 1 else f"{'half' if size < 1 else 'double'}, {how}"


def alarms(paths: list[Path]) -> None:
    print("| set | micrographs | looked at | false alarms |\n|---|---|---|---|")
    sets: dict[str, list[Path]] = {}
    for path in paths:
        sets.setdefault(next(part for part in path.parts if part in {c.split("/")[0] for c in CLEAN}), []).append(path)
    total = [0, 0, 0]
    for label, files in sets.items():
        looked = wrong = 0
        for path in files:
            for quality in (0, 75):
                pixels = variant(Image.fromarray(opened(path)), 1.0, quality)
                for turns in range(4):
                    looked += 1
                    wrong += found(np.rot90(pixels, turns, (1, 2))) > 0
        total = [a + b for a, b in zip(total, (len(files), looked, wrong), strict=True)]
        print(f"| {label} | {len(files)} | {looked} | {wrong} |", flush=True)
    print(f"| **all** | {total[0]} | {total[1]} | {total[2]} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    if not options.data.is_dir():
        print(f"no micrographs in {options.data}; nothing is measured")
        return
    print("Real bars (each is one file):\n")
    real = {file: [(opened(options.data / "faults" / file), rows)] for file, rows in REAL.items()}
    recall_table(real, options.verbose)
    print("\nSimulated bars on real micrographs:\n")
    grounds = [
        path
        for path in clean_files(options.data)
        if path.parent.name == "fracture" or path.parts[-3:-1] in {("coating", "train"), ("superalloy", "train")}
    ]
    simulated: dict[str, list[tuple[np.ndarray, float]]] = {}
    for style_number, (label, style) in enumerate(STYLES.items()):
        generator = np.random.default_rng(style_number)
        chosen = generator.permutation(len(grounds))[: options.count]
        simulated[label] = [with_bar(style, opened(grounds[index], 1024), generator) for index in chosen]
    recall_table(simulated, options.verbose)
    print("\nFalse alarms:\n")
    alarms(clean_files(options.data))


if __name__ == "__main__":
    main()
