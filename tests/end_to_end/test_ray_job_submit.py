"""`ray job submit` against a real head with token authentication: the jobs run there, and lost outputs are refused."""

from __future__ import annotations

import csv
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
RAY = Path(sys.executable).parent / "ray"
START_SECONDS = 120


@dataclass(frozen=True)
class Head:
    """A Ray head of our own, and what a client needs to talk to it."""

    address: str
    environment: dict[str, str]

    def submit(self, working_dir: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`ray job submit --working-dir ... -- python ARGUMENTS`, waiting for its end.

        Tried again while the head takes no jobs: its job agent comes up a while after its dashboard answers.
        """
        command = [
            RAY,
            "job",
            "submit",
            "--address",
            self.address,
            "--working-dir",
            working_dir,
            "--",
            "python",
            *arguments,
        ]
        deadline = time.monotonic() + START_SECONDS
        while True:
            done = subprocess.run(
                command, env=self.environment, capture_output=True, text=True, timeout=240, check=False
            )
            if "submitted successfully" in done.stdout + done.stderr or time.monotonic() > deadline:
                return done
            time.sleep(2)


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _environment(folder: Path) -> dict[str, str]:
    """Nothing of the user's own Ray: no address, no token, no settings of microseg."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MICROSEG_"))}
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    return {
        **kept,
        "HOME": str(folder),
        "PATH": f"{RAY.parent}{os.pathsep}{kept['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _own_processes(head: subprocess.Popen[bytes], folder: Path) -> list[psutil.Process]:
    """What this head started: its descendants, and whatever names its folder. Other Rays on the machine are not ours."""
    found = []
    for process in psutil.process_iter(["pid", "cmdline"]):
        if process.pid != head.pid and any(str(folder) in part for part in process.info["cmdline"] or []):
            found.append(process)
    try:
        return [*psutil.Process(head.pid).children(recursive=True), *found]
    except psutil.NoSuchProcess:
        return found


def _stop(head: subprocess.Popen[bytes], folder: Path) -> None:
    processes = _own_processes(head, folder)
    if head.poll() is None:
        head.send_signal(signal.SIGTERM)
        try:
            head.wait(20)
        except subprocess.TimeoutExpired:
            head.kill()
            head.wait(10)
    left = {*processes, *_own_processes(head, folder)}
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=20)


def _wait_until_up(head: subprocess.Popen[bytes], address: str, token: str, log: Path) -> None:
    request = urllib.request.Request(f"{address}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if head.poll() is not None:
            pytest.fail(f"ray start ended with {head.returncode}:\n{log.read_text()}")
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except (OSError, urllib.error.URLError):
            time.sleep(0.5)
    pytest.fail(f"the head did not answer within {START_SECONDS} s:\n{log.read_text()}")


@pytest.fixture(scope="module")
def head() -> Iterator[Head]:
    # Not pytest's tmp_path: Ray puts sockets below it, whose paths must stay under 108 characters.
    folder = Path(tempfile.mkdtemp(prefix="mr_", dir="/tmp"))
    environment = _environment(folder)
    port, dashboard, client, agent = _free_ports(4)
    command = [RAY, "start", "--head", "--block", "--num-cpus=2", f"--port={port}", f"--dashboard-port={dashboard}"]
    command += [
        f"--ray-client-server-port={client}",
        f"--dashboard-agent-listen-port={agent}",
        f"--temp-dir={folder / 'ray'}",
    ]
    command += ["--node-ip-address=127.0.0.1", "--disable-usage-stats", f"--object-store-memory={256 * 1024**2}"]
    log = folder / "head.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=output, cwd=folder, start_new_session=True
        )
    address = f"http://127.0.0.1:{dashboard}"
    try:
        _wait_until_up(process, address, (folder / "token").read_text(), log)
        yield Head(address, environment)
    finally:
        _stop(process, folder)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def working_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("working_dir")
    for name in ("jobs", "microseg_ray"):
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from microseg_ray.simulation import simulate_archive

    folder = tmp_path_factory.mktemp("archive")
    simulate_archive(folder, 2, (150, 190), seed=5)
    return folder


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model: what it predicts does not matter here."""
    import torch

    from microseg_ray.models import build_model
    from microseg_ray.models.card import ModelCard
    from microseg_ray.models.checkpoint import save_checkpoint
    from microseg_ray.models.receptive_field import measure_receptive_field
    from microseg_ray.settings import ClassSpec

    torch.manual_seed(0)
    options = {"width": 4, "depth": 1}
    model = build_model("unet", 1, 3, options)
    card = ModelCard(
        architecture="unet",
        options=options,
        in_channels=1,
        classes=tuple(ClassSpec(name=name) for name in ("matrix", "grain", "pore")),
        receptive_field=measure_receptive_field(model.eval(), 1),
    )
    folder = tmp_path_factory.mktemp("model") / "best"
    save_checkpoint(folder, model, card)
    return folder


def test_a_stranger_without_the_token_is_refused(head: Head) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{head.address}/api/jobs/", timeout=10)
    refused.value.close()
    assert refused.value.code == 401


def test_segment_runs_on_the_cluster(
    head: Head, working_dir: Path, archive: Path, checkpoint: Path, tmp_path: Path
) -> None:
    arguments = [
        "jobs/segment.py",
        "--archive",
        str(archive / "images"),
        "--checkpoint",
        str(checkpoint),
        "--workers",
        "1",
    ]
    done = head.submit(working_dir, *arguments, "--output", str(tmp_path / "run"))
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "run" / "areas.csv").open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["micrograph"] for row in rows] == ["grains_0000.tif"] * 3 + ["grains_0001.tif"] * 3
    assert {int(row["measured_pixel_count"]) for row in rows} == {150 * 190}
    assert not (working_dir / "runs").exists()


@pytest.mark.slow
def test_an_output_that_would_vanish_is_refused(head: Head, working_dir: Path, archive: Path) -> None:
    given = [
        "--images",
        str(archive / "images"),
        "--masks",
        str(archive / "masks"),
        "--classes",
        '["matrix", "grain", "pore"]',
    ]
    done = head.submit(working_dir, "jobs/tile.py", *given, "--output", "tiles")
    assert done.returncode != 0, done.stdout + done.stderr
    shown = " ".join((done.stdout + done.stderr).split())
    assert "tile.output: 'tiles' is relative" in shown
    assert "give an absolute path that all nodes see" in shown
    assert "failed with exit code 2" in shown
