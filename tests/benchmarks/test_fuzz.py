"""Damaged input of every parser ends in a value or in an error of ours; `python -m benchmarks fuzz` tries more."""

import random
import time

import pytest

from benchmarks import fuzz as fuzzing
from benchmarks.__main__ import main
from benchmarks.fuzz import fuzz, mutated
from benchmarks.fuzz_parser import Parser
from benchmarks.fuzz_seeds import PARSERS
from microseg_ray.errors import InputError, SettingsError, StoreError
from microseg_ray.recognition import is_ours, is_record
from microseg_ray.runs.folder import Run
from microseg_ray.runs.status import run_status
from microseg_ray.runs.store.glance import glance
from microseg_ray.runs.store.masks import MaskStore

QUICK = [name for name in PARSERS if name not in {"checkpoint", "FITS", "config", "annotations: TFRecord"}]
DEEP = "[" * 100_000


@pytest.mark.parametrize("name", QUICK)
def test_no_crash(name, tmp_path):
    found = fuzz(name, 8, 0, tmp_path)
    assert (found.tried, found.crashes) == (8, {})


@pytest.mark.slow
@pytest.mark.parametrize("name", PARSERS)
def test_no_crash_of_many(name, tmp_path):
    found = fuzz(name, 300, 2, tmp_path)
    assert found.tried == 300
    assert found.crashes == {}


def test_a_crash_and_a_slow_input_are_found(tmp_path, monkeypatch):
    def read(path):
        match path.read_bytes()[:1]:
            case b"a":
                return
            case b"":
                raise InputError(path, "empty")
            case _:
                raise ZeroDivisionError

    def make(folder):
        (folder / "a").write_bytes(b"a")
        return [folder / "a"]

    monkeypatch.setitem(PARSERS, "names", Parser(make, read))
    found = fuzz("names", 60, 0, tmp_path)
    assert found.refused
    assert found.crashes.keys() == {"ZeroDivisionError at ?"}

    def endless(path):
        while path.read_bytes() != b"a":
            time.process_time()

    monkeypatch.setattr(fuzzing, "SECONDS", 0.01)
    monkeypatch.setitem(PARSERS, "names", Parser(make, endless))
    assert fuzz("names", 1, 0, tmp_path).crashes == {"SlowError at ?": 1}


def test_mutations_are_made_again_by_their_seed():
    contents = [b'{"a": [1, 2.5, "b"]}' * 3, b"", b"\0" * 40]
    for content in contents:
        made = [mutated(content, random.Random(number)) for number in range(200)]
        assert made == [mutated(content, random.Random(number)) for number in range(200)]
        assert len(set(made)) > 40


@pytest.mark.slow
def test_the_table(capsys):
    assert main(["fuzz", "--inputs", "5", "--only", "list of names", "names"]) == 0
    printed = capsys.readouterr().out
    assert "| names | 5 | 0 | 0 |" in printed
    assert "| all | 10 |" in printed


def test_json_nested_deep_in_a_run(tmp_path):
    PARSERS["run: mask store"].make(tmp_path)
    run = Run.open(tmp_path / "run")
    place = run.store_path("a.tif")
    (place / "zarr.json").write_text(DEEP)
    with pytest.raises(StoreError, match="damaged"):
        glance(place)
    with pytest.raises(StoreError, match="damaged"):
        MaskStore.open(place)
    assert not is_ours(place)
    assert run_status(run.folder).shards == 0
    (run.folder / "run.json").write_text(DEEP)
    assert not is_record(run.folder / "run.json", "identity")
    with pytest.raises(StoreError, match=r"run\.json: damaged"):
        Run.open(run.folder)


def test_a_damaged_shard_is_named_with_its_mask(tmp_path):
    from microseg_ray.geometry import Box

    PARSERS["run: mask store"].make(tmp_path)
    place = Run.open(tmp_path / "run").store_path("a.tif")
    (place / "0" / "c" / "0" / "0").write_bytes(b"\0" * 7)
    with pytest.raises(StoreError, match=r"a\.tif.*cannot be read.*microseg verify"):
        MaskStore.open(place).read(Box.of_shape((64, 64)))


def test_a_config_nested_deep_is_refused_before_it_takes_time(tmp_path):
    """100,000 brackets took more than 5 s; the limit of the depth ends the parsing at the 51st."""
    path = tmp_path / "config.yaml"
    path.write_text(f"tile: {DEEP}")
    with pytest.raises(SettingsError, match="line 1: nested deeper than 50"):
        PARSERS["config"].read(path)


def test_a_negative_count_is_refused(tmp_path):
    (path,) = PARSERS["confusions.csv"].make(tmp_path)
    path.write_text(path.read_text().replace(",5\n", ",-5\n"))
    with pytest.raises(SettingsError, match=r"cannot be read .*-5 pixels"):
        PARSERS["confusions.csv"].read(path)
