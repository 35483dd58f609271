"""Fixtures that several test files share."""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from PIL import Image

# One thread for every library, before any of them is loaded. Threads that wait for each other spin: on a busy machine of
# two cores the tests of models took five times the CPU time with two threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import tifffile

from microseg_ray.files import EPOCH_FILE

# OpenVINO would report imports and conversions to its makers, from copies of this process.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# The same examples on every machine and at every time; `pytest --hypothesis-profile explore` looks for new ones.
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("explore", derandomize=False, deadline=None, max_examples=1000)
settings.load_profile("repeatable")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session", autouse=True)
def _auto_is_torch() -> Iterator[None]:
    """`runtime: auto` takes torch, except in tests with the mark `openvino`.

    OpenVINO compiles every size of image, for seconds that the small images of tests do not repay.
    """
    from microseg_ray.models import computing

    real = computing.runtime_name

    def chosen(choice: str, *rest: Any) -> str:
        return real("torch" if choice == "auto" and not _openvino_is_auto else choice, *rest)  # type: ignore[arg-type]

    patch = pytest.MonkeyPatch()
    patch.setattr(computing, "runtime_name", chosen)
    yield
    patch.undo()


_openvino_is_auto: list[bool] = []
"""Not empty while a marked test runs."""


@pytest.fixture(autouse=True)
def _auto_is_auto(request: pytest.FixtureRequest) -> Iterator[None]:
    marked = request.node.get_closest_marker("openvino") is not None
    if marked:
        _openvino_is_auto.append(True)
    yield
    _openvino_is_auto.clear()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The real micrographs beside the repository; read only."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real micrographs are not here ({folder})")
    return folder


# Ray asks for a token otherwise, and tells its makers that it was started.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")


@pytest.fixture(scope="session")
def ray_folder() -> Iterator[Path]:
    """Where this session's Rays keep their files: a short path, because their sockets lie in it."""
    folder = Path(tempfile.mkdtemp(prefix="msr", dir="/tmp"))
    before = os.environ.get("RAY_TMPDIR")
    os.environ["RAY_TMPDIR"] = str(folder)
    yield folder
    if before is None:
        os.environ.pop("RAY_TMPDIR")
    else:
        os.environ["RAY_TMPDIR"] = before
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def ray_session(ray_folder: Path) -> Iterator[None]:
    """One embedded Ray of two CPUs for all tests that ask for it."""
    import ray

    handler = signal.getsignal(signal.SIGTERM)
    for tries_left in (2, 1, 0):
        try:
            ray.init(
                address="local",
                num_cpus=2,
                object_store_memory=100 * 1024**2,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
            break
        except Exception as error:
            # Ray gives itself 30 s, which a busy machine may not have.
            ray.shutdown()
            if "timed out during startup" not in str(error) or not tries_left:
                raise
    yield
    ray.shutdown()
    # Ray puts its own in place.
    signal.signal(signal.SIGTERM, handler)


def make_checkpoint(
    folder: Path, *, seed: int = 0, classes: tuple[str, ...] = ("matrix", "grain", "pore"), **options: Any
) -> Path:
    """A checkpoint with random weights, which segments as well as any other as far as bytes go."""
    import torch

    from microseg_ray.models import build_model
    from microseg_ray.models.card import ModelCard
    from microseg_ray.models.checkpoint import save_checkpoint
    from microseg_ray.models.footprint import measure_footprint
    from microseg_ray.models.receptive_field import measure_receptive_field
    from microseg_ray.settings import ClassSpec, default_color

    options = {"width": 4, "depth": 2, **options}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model("unet", 1, len(classes), options).eval()
        # Without a bias towards none, a random model would call nearly everything one class.
        with torch.no_grad():
            model.head.bias.sub_(model(torch.rand(1, 1, 128, 128)).mean(dim=(0, 2, 3)))
    card = ModelCard(
        architecture="unet",
        options=options,
        in_channels=1,
        classes=tuple(ClassSpec(name=name, color=default_color(index)) for index, name in enumerate(classes)),
        receptive_field=measure_receptive_field(model, 1),
        footprint=measure_footprint(model, 1),
    )
    save_checkpoint(folder, model, card)
    return folder


@pytest.fixture(scope="session")
def new_checkpoint() -> Callable[..., Path]:
    """`new_checkpoint(folder, seed=0, classes=(...), width=4, depth=2)` makes one."""
    return make_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny U-Net of three classes with random weights."""
    return make_checkpoint(tmp_path_factory.mktemp("model") / "best")


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four micrographs of several sizes, formats and depths, in folders with awkward names; read only."""
    folder = tmp_path_factory.mktemp("archive")
    write_archive(folder)
    return folder


def write_archive(folder: Path) -> None:
    """The micrographs of `archive`; the largest has 3 x 3 shards of 256 px."""
    for number, (name, shape, dtype) in enumerate(
        (
            ("large.tif", (640, 700), "uint8"),
            ("2019/deep.tif", (300, 270), "uint16"),
            ("2019/run #2 (a)/small.png", (90, 131), "uint8"),
            ("exact.tif", (256, 256), "uint8"),
        )
    ):
        generator = np.random.default_rng(number)
        coarse = generator.random((shape[0] // 16 + 2, shape[1] // 16 + 2))
        image = np.kron(coarse, np.ones((16, 16)))[: shape[0], : shape[1]] * 0.7 + generator.random(shape) * 0.3
        pixels = (image * np.iinfo(dtype).max).astype(dtype)
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".tif":
            tifffile.imwrite(path, pixels, tile=(64, 64), compression="deflate")
        else:
            Image.fromarray(pixels).save(path)


@pytest.fixture
def new_archive() -> Callable[[Path], None]:
    """Writes the micrographs of `archive` somewhere else, to be changed."""
    return write_archive


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve small micrographs that a tiny model can learn, in `images`, and their masks in `masks`; read only."""
    folder = tmp_path_factory.mktemp("pairs")
    write_pairs(folder)
    return folder


def write_pairs(folder: Path, groups: int = 4) -> None:
    """`GROUP_VIEW.png`, three views a group, 96 x 80 px: dark matrix, bright grains, black pores; a strip is not labelled."""
    for part in ("images", "masks"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for number in range(3 * groups):
        generator = np.random.default_rng(number)
        coarse = generator.choice(3, size=(6, 5), p=(0.5, 0.3, 0.2)).astype(np.uint8)
        mask = np.kron(coarse, np.ones((16, 16), np.uint8))
        image = np.array([110, 190, 30])[mask] + generator.normal(0, 15, mask.shape)
        mask[:, -4:] = 255
        name = f"{number // 3}_{'abc'[number % 3]}.png"
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / "images" / name)
        Image.fromarray(mask).save(folder / "masks" / name)


@pytest.fixture
def new_pairs() -> Callable[..., None]:
    """Writes the pairs of `pairs` somewhere else, to be changed."""
    return write_pairs


@pytest.fixture(scope="session")
def tree_of() -> Callable[[Path], dict[str, str]]:
    """`tree_of(folder)`: the sha256 of every file below it, by relative path.

    Left out are the logs of runs, which hold times, and the epoch of an output, which every job that writes there raises.
    """

    def tree(folder: Path) -> dict[str, str]:
        found = (path for path in folder.rglob("*") if path.is_file())
        files = sorted(path for path in found if path.parent.name != "logs" and path.name != EPOCH_FILE)
        return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}

    return tree


@dataclass(frozen=True)
class Ran:
    """What a command line came to: exit code, and what it printed, with line breaks as blanks."""

    code: int
    out: str
    err: str


@pytest.fixture
def microseg(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ran]]:
    """`microseg("tile", "--output", path)` runs a job in this process."""
    from microseg_ray.cli import main

    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return Ran(code, " ".join(printed.out.split()), " ".join(printed.err.split()))

    yield run
    signal.signal(signal.SIGTERM, handler)
