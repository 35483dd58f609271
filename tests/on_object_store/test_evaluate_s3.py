"""Evaluation, checkpoints and tables in an object store: the same bytes and figures as in folders."""

from __future__ import annotations

import json
import os

import pytest

from microseg_ray.catalog import read_table
from microseg_ray.errors import CheckpointError, InputError, ObjectStoreError
from microseg_ray.files import content_of, kept
from microseg_ray.models.card import read_card_and_digest
from microseg_ray.models.checkpoint import load_checkpoint
from microseg_ray.sources.scale.table import read_pixel_sizes
from tests.on_object_store.faulty import Faults, FaultyProxy

OF_THE_PLACE = {"judged_model.json"}


@pytest.fixture
def counted(server, bucket, monkeypatch):
    """Counts requests."""
    proxy = FaultyProxy(server.url, Faults(share=0.0))
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
    yield proxy.faults
    proxy.shutdown()
    proxy.server_close()


@pytest.fixture
def table(new_pairs, bucket, sent, tmp_path):
    """A table of two micrographs with masks, by names beside it, in a folder and in the store."""
    new_pairs(tmp_path / "pairs", 1)
    lines = ["micrograph,mask,split", *(f"images/{name},masks/{name},test" for name in ("0_a.png", "0_b.png"))]
    (tmp_path / "pairs" / "some.csv").write_text("\n".join(lines))
    sent(tmp_path / "pairs", bucket / "pairs")
    return tmp_path / "pairs" / "some.csv", bucket / "pairs" / "some.csv"


def test_evaluate_gives_the_same_bytes(
    stored, bucket, table, checkpoint, objects_of, tmp_path, microseg, secret, counted
):
    """Table, micrographs, masks, checkpoint and output in the store."""
    options = ("--pictures", 1, "--resamples", 10, "--disagreements", 1, "--shard", 64, "--write_back", "false")
    here = microseg(
        "evaluate", "--table", table[0], "--checkpoint", checkpoint, *options, "--output", tmp_path / "found"
    )
    assert here.code == 0, here.err
    before = counted.requests
    there = microseg(
        "evaluate", "--table", table[1], "--checkpoint", stored / "best", *options, "--output", bucket / "found"
    )
    assert there.code == 0, there.err
    assert counted.requests - before < 250, "outputs are looked for one by one"
    local, remote = objects_of(tmp_path / "found"), objects_of(bucket / "found")
    assert local.keys() == remote.keys()
    assert {name for name in local if local[name] != remote[name]} == OF_THE_PLACE
    judged = [json.loads((place / "found" / "judged_model.json").read_text()) for place in (tmp_path, bucket)]
    assert judged[0]["model_digest"] == judged[1]["model_digest"]
    assert secret not in there.out + there.err


def test_a_checkpoint_is_fetched_once_and_again_where_it_changed(stored, bucket, checkpoint, sent, counted):
    sent(checkpoint, bucket / "best")
    before = counted.requests
    model, card = load_checkpoint(str(bucket / "best"))
    first = counted.requests - before
    load_checkpoint(str(bucket / "best"))
    assert counted.requests - before - first < first
    here, its_card = load_checkpoint(checkpoint)
    assert card == its_card
    assert all((model.state_dict()[name] == value).all() for name, value in here.state_dict().items())
    assert read_card_and_digest(bucket / "best") == read_card_and_digest(checkpoint)
    weights = (bucket / "best" / "model.safetensors").read_bytes()
    (bucket / "best" / "model.safetensors").write(weights[:-1] + bytes([weights[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"s3://.*model.safetensors is not the file that was saved"):
        load_checkpoint(str(bucket / "best"))


def test_what_is_no_checkpoint_is_named(stored, bucket):
    with pytest.raises(CheckpointError, match=r"s3://.*/none: no such checkpoint folder"):
        read_card_and_digest(bucket / "none")
    (bucket / "half" / "model.safetensors").write(b"x")
    with pytest.raises(CheckpointError, match=r"s3://.*/half: model.json is missing"):
        read_card_and_digest(bucket / "half")


def test_copies_make_room_for_each_other(bucket, monkeypatch):
    monkeypatch.setattr(kept, "MOST_BYTES", 2500)
    for name in "abc":
        (bucket / name).write(name.encode() * 1000)
    for number, name in enumerate("aabc"):
        content_of(bucket / name)
        newest = max(kept.copies_folder().iterdir(), key=lambda copy: copy.stat().st_mtime_ns)
        os.utime(newest, (number, number))
    left = sorted(copy.read_bytes()[:1] for copy in kept.copies_folder().iterdir())
    assert left == [b"b", b"c"]
    assert content_of(bucket / "a") == b"a" * 1000


def test_a_folder_of_copies_that_others_may_enter_is_not_used(bucket):
    kept.copies_folder().chmod(0o777)
    (bucket / "a").write(b"a")
    assert content_of(bucket / "a") == b"a"
    assert not list(kept.copies_folder().iterdir())


def test_tables_of_pixel_sizes_and_groups(bucket, table, archive, monkeypatch):
    (bucket / "sizes.csv").write(b"pattern,um_per_pixel\r\n*.tif,0.5\r\n")
    assert [row.x for row in read_pixel_sizes(str(bucket / "sizes.csv"))] == [0.5]
    (bucket / "sizes.csv").write(b"pattern,um_per_pixel\n*.tif,0.25\n")
    assert [row.x for row in read_pixel_sizes(str(bucket / "sizes.csv"))] == [0.25]
    (bucket / "wrong.csv").write(b"micrograph\n/data/a.tif\n")
    with pytest.raises(InputError, match="is a path of one machine"):
        read_table(bucket / "wrong.csv")
    (bucket / "sub" / "up.csv").write(b"micrograph\n../a.tif\ns3://other/b.tif\n../../../c.tif\n")
    assert [str(row.image) for row in read_table(bucket / "sub" / "up.csv")] == [
        f"{bucket}/a.tif", "s3://other/b.tif", f"{bucket}/c.tif"
    ]  # fmt: skip
    with pytest.raises(InputError, match="cannot be read"):
        read_table(bucket / "none.csv")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(ObjectStoreError, match="no credentials"):
        read_table(bucket / "sub" / "up.csv")


def test_annotate_draws_the_same_masks(bucket, new_pairs, sent, objects_of, tmp_path, microseg):
    """Micrographs, annotations and masks in the store: regions of LabelMe, and the masks again as an index image."""
    new_pairs(tmp_path / "in", 1)
    square = {"label": "grain", "shape_type": "rectangle", "points": [[3, 4], [20, 30]]}
    for name in ("0_a", "0_b"):
        (tmp_path / "in" / f"{name}.json").write_text(json.dumps({"shapes": [square], "imagePath": f"{name}.png"}))
    sent(tmp_path / "in", bucket / "in")
    classes = ("--classes", "matrix", "--classes", "grain", "--classes", "pore")
    for kind, drawn in {"drawn": "*.json", "index": "masks"}.items():
        made = [
            microseg("annotate", "--images", place / "in" / "images", "--annotations", place / "in" / drawn,
                     *classes, "--output", place / kind)
            for place in (tmp_path, bucket)
        ]  # fmt: skip
        assert [each.code for each in made] == [made[0].code] * 2, made
        local, remote = objects_of(tmp_path / kind), objects_of(bucket / kind)
        assert local.keys() == remote.keys()
        assert len([name for name in local if name.endswith(".png")]) == {"drawn": 2, "index": 3}[kind]
        assert {name for name in local if local[name] != remote[name]} == {"report.json"}
    again = microseg("annotate", "--images", bucket / "in" / "images", "--annotations", bucket / "in" / "masks", *classes,
                     "--output", bucket / "index")  # fmt: skip
    assert again.code == 2
    assert "is not empty; give another folder, or --overwrite" in again.err


@pytest.mark.slow
def test_a_run_in_the_store_is_judged_as_one_in_a_folder(
    bucket, new_pairs, sent, checkpoint, objects_of, tmp_path, microseg
):
    """With the probabilities that it kept, and its areas are then corrected by what was found, which lies beside it."""
    new_pairs(tmp_path / "in", 1)
    sent(tmp_path / "in", bucket / "in")
    for place in (tmp_path, bucket):
        made = microseg("segment", "--archive", place / "in" / "images", "--checkpoint", checkpoint, "--workers", 0,
                        "--extra", "probabilities", "--fingerprint", "content", "--output", place / "run")  # fmt: skip
        assert made.code == 0, made.err
        judged = microseg("evaluate", "--predictions", place / "run", "--masks", place / "in" / "masks",
                          "--pictures", 1, "--output", place / "evaluation")  # fmt: skip
        assert judged.code == 0, judged.err
        measured = microseg("measure", "--run", place / "run", "--intervals.evaluation", place / "evaluation")
        assert measured.code == 0, measured.err
    local, remote = objects_of(tmp_path / "evaluation"), objects_of(bucket / "evaluation")
    assert local.keys() == remote.keys()
    assert {name for name in local if local[name] != remote[name]} == OF_THE_PLACE
