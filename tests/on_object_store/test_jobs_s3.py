"""What is made of a run in an object store: the same bytes as of a run in a folder, or a refusal that says what to do."""

from __future__ import annotations

import json

import pytest

from microseg_ray.errors import ObjectStoreError, StoreError
from microseg_ray.files import ObjectPath, place
from microseg_ray.runs.folder import Run
from microseg_ray.settings import JOBS
from microseg_ray.sources import open_micrograph

OF_THE_PLACE = {"run.json", "report.html"}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_jobs_on_a_run_make_the_same_bytes(archive, checkpoint, bucket, sent, objects_of, tmp_path, microseg):
    sent(archive, bucket / "in")
    places = {"here": (archive, tmp_path), "there": (bucket / "in", bucket)}
    for name, (source, root) in places.items():
        segment = ("segment", "--archive", source, "--checkpoint", checkpoint, "--output", root / "run", "--workers", 0)
        assert microseg(*segment, "--shard", 256, "--fingerprint", "content").code == 0
        measured = microseg("measure", "--run", root / "run", "--objects.labels", "true", "--overlays", 2)
        assert measured.code == 0, measured.err
        assert microseg("report", "--run", root / "run").code == 0
        verified = microseg("verify", "--run", root / "run", "--shards", 2)
        assert (verified.code, "2 equal byte for byte" in verified.out) == (0, True), verified
        derived = ("postprocess", "--run", root / "run", "--output", root / "post", "--min_speck", 4, "--workers", 0)
        assert microseg(*derived).code == 0
        exported = ("export-run", "--run", root / "run", "--output", tmp_path / f"exported-{name}", "--format", "tiff")
        assert microseg(*exported).code == 0
        status = json.loads(microseg("status", root / "run", "--json").out)
        assert (status["complete"], status["shards_done"], status["writer"]) == (True, 15, "none")
    for folder in ("run", "post"):
        local, remote = objects_of(tmp_path / folder), objects_of(bucket / folder)
        assert local.keys() == remote.keys()
        assert {name for name in local if local[name] != remote[name]} <= OF_THE_PLACE
    here, there = (objects_of(tmp_path / f"exported-{name}") for name in places)
    assert {name for name in here if here[name] != there[name]} == {"export.json"}


def test_a_run_in_a_bucket_is_not_viewed_and_not_taken_for_an_archive(bucket, microseg):
    (bucket / "run" / "run.json").write(b"{}")
    shown = microseg("view", bucket / "run")
    assert shown.code == 1
    assert (
        f"view works in folders of this machine only; copy it here first (`aws s3 sync {bucket}/run FOLDER`)"
        in shown.err
    )


def test_no_run_and_a_damaged_one_are_named(bucket):
    with pytest.raises(StoreError, match=r"s3://.*/run: no run is here"):
        Run.open(bucket / "run")
    (bucket / "run" / "run.json").write(b"{")
    with pytest.raises(StoreError, match=r"s3://.*/run/run.json: damaged"):
        Run.open(bucket / "run")


def test_no_job_writes_into_a_folder_called_s3(tmp_path, monkeypatch, microseg):
    """An address that a job takes for a path would end in the working directory."""
    monkeypatch.chdir(tmp_path)
    for name, settings in JOBS.items():
        if "output" not in settings.model_fields or "output" in settings.in_object_stores:
            continue
        refused = microseg(name, "--output", "s3://bucket/x")
        assert refused.code != 0, name
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "address", ["s3://user:password@bucket/a", "s3://bucket/../a", "s3://", "s3:///a", "s3://bucket/a/../../b"]
)
def test_addresses_that_are_none(address):
    with pytest.raises(StoreError) as refused:
        place(address)
    assert "password" not in str(refused.value)


def test_public_objects_are_read_without_credentials(archive, bucket, monkeypatch):
    boto3 = pytest.importorskip("boto3")
    boto3.client("s3").put_object(
        Bucket=bucket.bucket, Key="in/exact.tif", Body=(archive / "exact.tif").read_bytes(), ACL="public-read"
    )
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    with pytest.raises(ObjectStoreError, match="no credentials"), open_micrograph(str(bucket / "in" / "exact.tif")):
        pass
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    with open_micrograph(str(bucket / "in" / "exact.tif")) as micrograph:
        assert micrograph.info.shape == (256, 256)


def test_names_behave_as_those_of_paths(tmp_path):
    for name in ("a", "a/b.tif.zarr", "a b/#1 µ~%.tif", "a.tar.gz"):
        path, key = tmp_path / name, ObjectPath("bucket") / "root" / name
        assert (key.name, key.stem, key.suffix) == (path.name, path.stem, path.suffix)
        assert str(key.relative_to(ObjectPath("bucket", "root"))) == path.relative_to(tmp_path).as_posix()
        assert key.parent.is_relative_to(ObjectPath("bucket", "root"))
        assert not key.is_relative_to(ObjectPath("bucket", "ro"))
        assert [str(each) for each in key.parents][-2:] == ["s3://bucket/root", "s3://bucket"]
