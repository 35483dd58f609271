"""The command line: exit codes, help, what is wrong named by its key, relative outputs refused inside a Ray job."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

import microseg_ray
from microseg_ray.runs.store.masks import MaskStore
from microseg_ray.settings import JOBS


def test_no_job_prints_the_jobs_as_wrong_usage(microseg):
    ran = microseg()
    assert ran.code == 2
    assert all(job in ran.out for job in JOBS)
    assert microseg("--help").code == 0
    assert microseg_ray.__version__ in microseg("--version").out


def test_an_unknown_job_is_named(microseg):
    ran = microseg("segmnet")
    assert ran.code == 2
    assert "no job 'segmnet'" in ran.err
    assert "segment" in ran.err


@pytest.mark.parametrize("job", sorted(JOBS))
def test_help_lists_every_option(microseg, job):
    ran = microseg(job, "--help")
    assert ran.code == 0, ran.err
    options = [name for name in JOBS[job].model_fields if name != "files"]
    assert all(f"--{name}" in ran.out for name in options)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["train", "--epohcs", "3"], "--epohcs: no such option of `train`; did you mean --epochs?"),
        (["train", "--tiles", "t", "--output", "o", "--epochs", "many"], "train.epochs"),
        (["train", "--tiles", "t"], "train.output: missing"),
        (["train", "--tiles", "t", "--output", "o", "--optimizer.name", "lion"], "train.optimizer.name"),
        (["segment", "--archive", "a", "--checkpoint", "c", "--output", "o", "--shard", "10"], "segment.shard"),
        (["tile", "--images", "i", "--masks", "m", "--output", "o"], "tile.classes"),
        (["tile", "nowhere.yaml"], "nowhere.yaml"),
    ],
)
def test_a_wrong_option_is_named(microseg, arguments, named):
    ran = microseg(*arguments)
    assert ran.code == 2
    assert named in ran.err
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("train:\n  epohcs: 3\n", "c.yaml: train.epohcs: no such setting"),
        ("trian:\n  epochs: 3\n", "c.yaml: unknown section 'trian'"),
        ("data:\n  imgaes: x\n", "c.yaml: data.imgaes: no such key"),
        ("train:\n  optimizer: {lr: 3}\n", "train.optimizer.lr"),
        ("train: [1, 2]\n", "c.yaml: train: must hold keys"),
        ("train:\n\t- x\n", "c.yaml: not valid YAML"),
        ("- 1\n", "c.yaml: a config holds sections"),
    ],
)
def test_a_wrong_config_is_named(microseg, tmp_path, text, named):
    (tmp_path / "c.yaml").write_text(text)
    ran = microseg("train", tmp_path / "c.yaml", "--tiles", "t", "--output", tmp_path / "o")
    assert ran.code == 2
    assert named in ran.err
    assert not (tmp_path / "o").exists()


def test_an_unknown_variable_is_named(microseg, monkeypatch, tmp_path):
    monkeypatch.setenv("MICROSEG_TRAIN__EPOHCS", "3")
    ran = microseg("train", "--tiles", "t", "--output", tmp_path)
    assert ran.code == 2
    assert "MICROSEG_TRAIN__EPOHCS" in ran.err


def test_segment_all_codes(microseg, checkpoint, archive, new_archive, tmp_path):
    options = ["--checkpoint", checkpoint, "--shard", "256", "--workers", "0"]
    ran = microseg("segment", "--archive", archive, "--output", tmp_path / "run", *options)
    assert ran.code == 0, ran.err
    assert "15 shards computed" in ran.out
    assert "seams: exact" in ran.out
    again = microseg("segment", "--archive", archive, "--output", tmp_path / "run", *options)
    assert again.code == 0
    assert "0 shards computed, 4 micrographs were complete already" in again.out
    refused = microseg("segment", "--archive", archive, "--output", tmp_path / "run", *options, "--halo", "4")
    assert refused.code == 1
    assert "halo: " in refused.err
    assert "--overwrite" in refused.err
    afresh = microseg(
        "segment", "--archive", archive, "--output", tmp_path / "run", *options, "--halo", "4", "--overwrite"
    )
    assert afresh.code == 0
    assert "seams: bounded (halo 4 is smaller" in afresh.out
    new_archive(tmp_path / "a")
    (tmp_path / "a/broken.tif").write_text("not a TIFF")
    mixed = microseg("segment", "--archive", tmp_path / "a", "--output", tmp_path / "mixed", *options)
    assert mixed.code == 3
    assert "15 shards computed" in mixed.out
    assert "broken.tif (open): " in mixed.out
    nothing = microseg("segment", "--archive", tmp_path / "nowhere", "--output", tmp_path / "x", *options)
    assert nothing.code == 1
    assert f"{tmp_path}/nowhere: no such file or folder" in nothing.err


def test_measure_takes_another_pixel_size_without_the_model(microseg, checkpoint, archive, tmp_path):
    run = tmp_path / "run"
    microseg(
        "segment", "--archive", archive / "exact.tif", "--checkpoint", checkpoint, "--output", run, "--workers", "0"
    )
    before = (run / "masks/exact.tif.zarr/0/c/0/0").read_bytes()
    ran = microseg("measure", "--run", run, "--pixel_size_um", "0.5", "--exports.write", "false")
    assert ran.code == 0, ran.err
    assert "0.5 x 0.5" in ran.out
    counts = MaskStore.open(run / "masks/exact.tif.zarr").counts.sum(axis=(0, 1))
    with (run / "areas.csv").open(newline="") as handle:
        assert [float(row["area_um2"]) for row in csv.DictReader(handle)] == [count * 0.25 for count in counts]
    assert (run / "masks/exact.tif.zarr/0/c/0/0").read_bytes() == before


def test_info_says_what_it_sees(microseg, archive, tmp_path):
    (tmp_path / "x.png").write_bytes(b"nothing")
    ran = microseg("info", archive / "large.tif", tmp_path / "x.png")
    assert ran.code == 3
    assert "tiff, 640 x 700 px (height x width), 1 channel, uint8" in ran.out
    assert "x.png" in ran.out


def test_a_ray_that_does_not_start_is_no_traceback(microseg, checkpoint, archive, monkeypatch, tmp_path):
    import ray

    def init(**_):
        raise Exception("The current node timed out during startup")  # noqa: TRY002 - as Ray does

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    ran = microseg(
        "segment", "--archive", archive, "--checkpoint", checkpoint, "--output", tmp_path / "run", "--workers", "1"
    )
    assert ran.code == 1
    assert "Ray cannot be started (The current node timed out during startup); is the machine very busy?" in ran.err


def test_an_interrupt_can_be_resumed(microseg, checkpoint, archive, tmp_path, monkeypatch):
    from microseg_ray.runs.worker import ArchiveWorker

    genuine, seen = ArchiveWorker.do, []

    def do(self, task):
        seen.append(task)
        if len(seen) == 8:
            raise KeyboardInterrupt
        return genuine(self, task)

    monkeypatch.setattr(ArchiveWorker, "do", do)
    options = [
        "--archive",
        archive,
        "--checkpoint",
        checkpoint,
        "--output",
        tmp_path / "run",
        "--shard",
        "256",
        "--path",
        "tiles",
        "--workers",
        "0",
    ]
    ran = microseg("segment", *options)
    assert ran.code == 130
    assert "the same command goes on from here" in ran.err
    again = microseg("segment", *options)
    assert again.code == 0
    assert "12 shards computed" in again.out


def test_a_relative_output_inside_a_ray_job_is_refused(microseg, checkpoint, archive, monkeypatch):
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    ran = microseg("segment", "--archive", archive, "--checkpoint", checkpoint, "--output", "runs/a", "--workers", "0")
    assert ran.code == 2
    assert "'runs/a' is relative" in ran.err
    assert not Path("runs/a").exists()


def test_importing_loads_neither_ray_nor_torch():
    modules = "microseg_ray, microseg_ray.cli, microseg_ray.stitching"
    code = f"import sys, {modules}; sys.exit(bool({{'ray', 'torch'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False, env=os.environ.copy()).returncode == 0


def test_the_scripts_in_jobs_are_the_same_program(tmp_path):
    folder = Path(__file__).resolve().parent.parent / "jobs"
    for script in sorted(folder.glob("*.py")):
        assert len(script.read_text(encoding="utf-8").splitlines()) < 20
        assert script.stem.replace("_", "-") in JOBS
    ran = subprocess.run(
        [sys.executable, folder / "measure.py", "--run", tmp_path], check=False, capture_output=True, text=True
    )
    assert ran.returncode == 1
    assert "no run is here" in ran.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--tiles", "t", "--output", "o", "--workers", "0"],
        ["segment", "--archive", "a", "--checkpoint", "c", "--output", "o", "--workers", "0"],
        ["evaluate", "--checkpoint", "c", "--images", "i", "--masks", "m"],
        ["classify", "--archive", "a", "--checkpoint", "c"],
        ["classifier", "--images", "i", "--output", "o"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_gpu_that_is_not_there_is_named_before_work(microseg, arguments, monkeypatch, tmp_path):
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ran = microseg(*arguments, "--gpu")
    assert ran.code == 1
    assert f"{arguments[0]}.gpu: torch finds no GPU on this machine" in ran.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
def test_what_a_cluster_cannot_give_is_named_before_work(microseg, ray_session, checkpoint, archive, pairs, tmp_path):
    run = ["segment", "--archive", archive, "--checkpoint", checkpoint, "--memory", "4"]
    gpu = microseg(*run, "--output", tmp_path / "gpu", "--workers", "1", "--gpu")
    assert (gpu.code, "1 GPU is asked for (1 process of 1), the cluster has 0" in gpu.err) == (1, True), gpu.err
    many = microseg(*run, "--output", tmp_path / "many", "--workers", "64")
    assert (many.code, "64 CPUs are asked for (64 processes of 1), the cluster has 2" in many.err) == (1, True), (
        many.err
    )
    tiles = ["tile", "--images", pairs / "images", "--masks", pairs / "masks", "--classes", "a,b,c", "--tile", "32"]
    store = [*tiles, "--overlap", "0", "--splits", "val=0.3", "--audit", "off", "--output", tmp_path / "t"]
    assert "3 CPUs are asked for" in microseg(*store, "--workers", "3").err
    assert microseg(*store, "--workers", "0").code == 0
    fit = ["train", "--tiles", tmp_path / "t", "--output", tmp_path / "fit", "--batch", "4", "--epochs", "1"]
    assert "1 GPU is asked for" in microseg(*fit, "--workers", "1", "--gpu").err
    (tmp_path / "c.yaml").write_text(
        f"tune: {{tiles: {tmp_path}/t, output: {tmp_path}/s, search: {{batch: [1, 2]}}}}\n"
    )
    ran = microseg("tune", tmp_path / "c.yaml", "--cpus", "64")
    assert (ran.code, "64 CPUs are asked for" in ran.err) == (1, True), ran.err
    # An attempt that computed nothing does not bind its output.
    assert not (tmp_path / "s" / "sweep.json").exists()


INTERRUPTED_AND_AGAIN = """
import atexit, os, signal, sys, time
import microseg_ray.cli as cli

def at_its_end():
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)

def interrupted(job, arguments):
    raise KeyboardInterrupt

atexit.register(at_its_end)
cli.run_job = interrupted
sys.exit(cli.main(["info"]))
"""


def test_a_second_interrupt_while_the_interpreter_ends_shows_no_traceback():
    """As of a library that closes something at exit, which takes its time."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_AND_AGAIN], capture_output=True, text=True, check=False)
    assert done.returncode == 130
    assert done.stderr == "interrupted; the same command goes on from here\n"
