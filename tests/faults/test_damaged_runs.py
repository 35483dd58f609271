"""Files of a run that are cut short, emptied or overwritten: named by verify, made anew by segment, and never a traceback."""

import random
import shutil

import pytest

SEED = random.Random(20261128)


def cut(content):
    return content[: len(content) // 2]


def emptied(_):
    return b""


def flipped(content):
    """Eight bits turned over, at random."""
    changed = bytearray(content)
    for _ in range(8):
        changed[SEED.randrange(len(changed))] ^= 1 << SEED.randrange(8)
    return bytes(changed)


def junk(_):
    return SEED.randbytes(200)


def null(_):
    return b"null"


def other_types(_):
    return b'{"identity": [], "attributes": {"microseg": 3}, "shape": "x", "entries": 5, "classes": 7}'


RANDOM = [pytest.param(flipped, marks=pytest.mark.slow), pytest.param(junk, marks=pytest.mark.slow)]


@pytest.fixture(scope="module")
def made(tmp_path_factory, archive, checkpoint):
    """A measured run of the archive."""
    from microseg_ray.cli import main

    folder = tmp_path_factory.mktemp("made") / "run"
    assert main([str(word) for word in segment_words(archive, checkpoint, folder)]) == 0
    assert main(["measure", "--run", str(folder)]) == 0
    return folder


def segment_words(archive, checkpoint, output):
    given = "--archive", archive, "--checkpoint", checkpoint, "--output", output
    return "segment", *given, "--shard", 256, "--workers", 0, "--runtime", "torch"


@pytest.fixture
def run(made, tmp_path):
    shutil.copytree(made, tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("harm", [cut, pytest.param(emptied, marks=pytest.mark.slow), *RANDOM])
@pytest.mark.parametrize("part", ["counts/c/1/1/0", "0/c/1/1", "1/c/0/0"])
def test_damage_is_named_by_verify_and_made_anew(run, made, archive, checkpoint, microseg, tree_of, part, harm):
    path = run / "masks/large.tif.zarr" / part
    path.write_bytes(harm(path.read_bytes()))
    found = microseg("verify", "--run", run, "--checkpoint", checkpoint, "--shards", 15)
    assert found.code == 1, found
    assert "large.tif" in found.out
    assert "Traceback" not in found.out + found.err
    repaired = microseg("verify", "--run", run, "--checkpoint", checkpoint, "--shards", 15, "--repair", "true")
    assert repaired.code == 1, repaired
    again = microseg(*segment_words(archive, checkpoint, run))
    assert again.code == 0, again
    assert tree_of(run / "masks") == tree_of(made / "masks")
    sound = microseg("verify", "--run", run, "--checkpoint", checkpoint, "--shards", 15)
    assert sound.code == 0, sound


@pytest.mark.parametrize("harm", [cut, pytest.param(emptied, marks=pytest.mark.slow), *RANDOM])
@pytest.mark.parametrize("part", ["counts/c/1/1/0", "0/c/1/1"])
def test_measure_and_report_name_a_damaged_mask(run, microseg, part, harm):
    path = run / "masks/large.tif.zarr" / part
    path.write_bytes(harm(path.read_bytes()))
    measured = microseg("measure", "--run", run, "--exports.write", "false")
    assert measured.code == 3, measured
    assert "large.tif" in measured.out + measured.err
    reported = microseg("report", "--run", run)
    assert reported.code in {0, 3}, reported
    assert "Traceback" not in measured.out + measured.err + reported.out + reported.err


@pytest.mark.parametrize("name", ["areas.parquet", "intervals.parquet", "failures.csv", "object_classes.csv"])
def test_report_names_what_to_do_with_a_damaged_table(run, microseg, name):
    (run / name).write_bytes(b"\xff\x00other,\n" * 20)
    found = microseg("report", "--run", run)
    assert found.code == 1, found
    assert "run measure again" in found.err or "failures.csv: is not the table" in found.err


FILES = (
    "masks/large.tif.zarr/zarr.json",
    "masks/large.tif.zarr/0/zarr.json",
    "masks/large.tif.zarr/counts/zarr.json",
    "run.json",
    "failures.csv",
    "accounting.csv",
    "areas.parquet",
    "areas.csv",
    "object_classes.csv",
    "intervals.parquet",
    ".microseg.json",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [cut, emptied, flipped, junk, null, other_types])
def test_no_damaged_file_ends_in_a_traceback(run, archive, checkpoint, microseg, name, harm):
    path = run / name
    path.write_bytes(harm(path.read_bytes()))
    for words in (
        ("verify", "--run", run, "--checkpoint", checkpoint, "--shards", 2),
        ("status", "--run", run),
        ("report", "--run", run),
        ("measure", "--run", run),
        segment_words(archive, checkpoint, run),
    ):
        ran = microseg(*words)
        assert ran.code in {0, 1, 2, 3}, (words[0], ran)
        assert "Traceback" not in ran.out + ran.err, words[0]
