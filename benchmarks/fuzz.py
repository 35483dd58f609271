"""Random damage to the files that our parsers read: each input gives a value or an error that names the file, in time.

    python -m benchmarks fuzz --inputs 300 --seed 0

Small seeds (`benchmarks.fuzz_seeds`) are mutated: bits flipped, parts cut, repeated and inserted, numbers replaced by
extreme ones, JSON nested deep. An input is a crash where its parser raises anything but a `MicrosegError`, takes more than
`SECONDS` of CPU time, or runs out of `MEMORY` (address space above that of the start). The generator of an input is seeded by
the seed, the parser's name and the input's number, so that each can be made again: `--only PARSER --input N --keep FILE`.
"""

from __future__ import annotations

import argparse
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from json import dumps, loads
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.fuzz_seeds import PARSERS
from benchmarks.harness import ROOT, Table, write
from microseg_ray.errors import MicrosegError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SECONDS = 5.0
MEMORY = 2 << 30
_NO_MEMORY = "not enough memory"
_EXTREME = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
_NUMBERS = (
    b"0",
    b"-1",
    b"1e999",
    b"-1e308",
    b"1e-320",
    b"NaN",
    b"Infinity",
    b"9223372036854775808",
    b"9" * 400,
    b"1.5",
    b'""',
)
_WORDS = (b"null", b"[]", b"{}", b'""', b"true", b'"\\ud800"',
          b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b'"', b",", b"\n", b"\r", b"=1+1",
          b"../../a", b"<script>", b"&a;", b"%s" * 9, b"A" * 5000)  # fmt: skip
_DEEP = (b"[" * 60_000, b'{"a":' * 60_000)


class SlowError(BaseException):
    """An input took more than `SECONDS`; no `except Exception` of a parser may catch it."""


@dataclass
class Found:
    """What became of the inputs of one parser.

    Attributes:
        tried: Inputs.
        refused: Those that ended in a `MicrosegError`.
        crashes: How often, by kind: the exception and the line of ours that it came through.
        first: The number of the first input of each kind.
        longest: CPU seconds of the slowest input.
    """

    tried: int = 0
    refused: int = 0
    crashes: dict[str, int] = field(default_factory=dict)
    first: dict[str, int] = field(default_factory=dict)
    longest: float = 0.0


def mutated(content: bytes, generator: random.Random) -> bytes:
    """The bytes with one to four changes.

    Example:
        >>> mutated(b"a" * 20, random.Random(0)) == mutated(b"a" * 20, random.Random(0)) != b"a" * 20
        True
    """
    for _ in range(generator.choice((1, 1, 1, 2, 4))):
        content = _changed(content, generator)
    return content


def _changed(content: bytes, generator: random.Random) -> bytes:
    at = generator.randrange(len(content) + 1)
    end = min(len(content), at + generator.choice((1, 2, 4, 8, 64, 512)))
    match generator.randrange(8):
        case 0:
            if at == len(content):
                return content[:-1]
            return content[:at] + bytes([content[at] ^ 1 << generator.randrange(8)]) + content[at + 1 :]
        case 1:
            return content[:at] + content[end:]
        case 2:
            return content[:at]
        case 3:
            return content[:end] + content[at:end] * generator.choice((1, 2, 50)) + content[end:]
        case 4:
            return content[:at] + generator.choice(_WORDS) + content[generator.choice((at, end)) :]
        case 5:
            size = generator.choice((1, 2, 4, 8))
            value = generator.choice(_EXTREME) & ((1 << 8 * size) - 1)
            return content[:at] + value.to_bytes(size, generator.choice(("little", "big"))) + content[at + size :]
        case 6:
            found = list(re.finditer(rb"-?\d+(\.\d+)?", content))
            if not found:
                return content[:at] + generator.choice(_NUMBERS) + content[at:]
            chosen = generator.choice(found)
            return content[: chosen.start()] + generator.choice(_NUMBERS) + content[chosen.end() :]
        case _:
            return _value_changed(content, generator)


def _value_changed(content: bytes, generator: random.Random) -> bytes:
    """One value or key of a JSON text, of a cell or of an attribute replaced; rarely, by what is nested deep."""
    found = list(re.finditer(rb'"[^"]*"|\[[^\[\]]*\]|\{[^{}]*\}|[\w.]+', content))
    if not found:
        return generator.choice(_WORDS)
    chosen = generator.choice(found)
    other = generator.choice(_DEEP) if generator.random() < 0.05 else generator.choice((*_WORDS, *_NUMBERS))
    return content[: chosen.start()] + other + content[chosen.end() :]


def fuzz(name: str, inputs: int, seed: int, folder: Path, only: int | None = None) -> Found:
    """Give one parser mutated inputs.

    Args:
        name: Key of `PARSERS`.
        inputs: How many.
        seed: With the name and the number of the input, the seed of its generator.
        folder: An empty folder to work in.
        only: The number of the one input to try, which is left in the folder.
    """
    parser = PARSERS[name]
    seeds = parser.make(folder)
    originals = {path: path.read_bytes() for path in seeds}
    found = Found()
    for path in seeds:
        parser.read(path)  # a seed that is refused would prove nothing
    for number in range(inputs) if only is None else (only,):
        generator = random.Random(f"{seed} {name} {number}")
        path = generator.choice(seeds)
        path.write_bytes(mutated(originals[path], generator))
        _try(name, path, number, found)
        if only is None:
            path.write_bytes(originals[path])
    return found


def _try(name: str, path: Path, number: int, found: Found) -> None:
    found.tried += 1
    before = _cpu()
    try:
        with _limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            PARSERS[name].read(path)
    except MicrosegError as error:
        found.refused += 1
        if _NO_MEMORY in str(error):
            _crashed(found, f"out of memory, refused as {type(error).__name__}", number)
    except (Exception, SlowError) as error:  # noqa: BLE001 - what it may be is the question
        places = [frame for frame in traceback.extract_tb(error.__traceback__) if "microseg_ray/" in frame.filename]
        at = f"{places[-1].filename.rpartition('microseg_ray/')[2]}:{places[-1].lineno}" if places else "?"
        _crashed(found, f"{type(error).__name__} at {at}", number)
    found.longest = max(found.longest, _cpu() - before)


def _crashed(found: Found, kind: str, number: int) -> None:
    found.crashes[kind] = found.crashes.get(kind, 0) + 1
    found.first.setdefault(kind, number)


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


@contextmanager
def _limited() -> Iterator[None]:
    def slow(*_: object) -> None:
        raise SlowError

    before = signal.signal(signal.SIGPROF, slow)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _part(options: argparse.Namespace) -> None:
    """One parser in a process of its own, which a crash of a library ends without ending the others."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    # Libraries that the seeds load reserve address space of their own.
    most = pages * resource.getpagesize() + MEMORY + (1 << 30)
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    folder = Path(options.keep or tempfile.mkdtemp(prefix="fuzz"))
    folder.mkdir(exist_ok=True)
    found = fuzz(options.part, options.inputs, options.seed, folder, options.input)
    if options.keep is None:
        shutil.rmtree(folder)
    print(dumps(asdict(found)))


def run(arguments: Sequence[str]) -> list[Table]:
    """The table of all parsers."""
    options = _options(arguments)
    command = f"python -m benchmarks fuzz --inputs {options.inputs} --seed {options.seed}"
    table = Table("fuzz", command, ("parser", "inputs", "refused", "crashes", "longest, CPU s"))
    total: Counter[str] = Counter()
    for name in options.only or PARSERS:
        part = [sys.executable, "-m", "benchmarks.fuzz", *arguments, "--part", name]
        done = subprocess.run(part, capture_output=True, text=True, check=False, cwd=ROOT)
        print(f"{name}: exit {done.returncode}", file=sys.stderr)
        if done.returncode:
            table.rows.append((name, "?", "?", f"the process ended with {done.returncode}: {done.stderr[-300:]}", "?"))
            total["crashes"] += 1
            continue
        found = Found(**loads(done.stdout.splitlines()[-1]))
        kinds = "; ".join(f"{kind} ({count}, input {found.first[kind]})" for kind, count in found.crashes.items())
        table.rows.append((name, str(found.tried), str(found.refused), kinds or "0", f"{found.longest:.2f}"))
        total.update(inputs=found.tried, refused=found.refused, crashes=sum(found.crashes.values()))
    table.rows.append(("all", str(total["inputs"]), str(total["refused"]), str(total["crashes"]), ""))
    table.figures = dict(total)
    return [table]


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=300, help="inputs a parser")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=list(PARSERS), help="these parsers")
    parser.add_argument("--input", type=int, help="this input only")
    parser.add_argument("--keep", help="an empty folder, in which the input is left")
    parser.add_argument("--part", choices=list(PARSERS), help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    if (chosen := _options(sys.argv[1:])).part:
        _part(chosen)
    else:
        write(run(sys.argv[1:]), None)
