"""The addresses of labels and of the loop, without a browser and without a model: who is refused, and that nothing is lost."""

from __future__ import annotations

import json
import os
import sys
import time
from contextlib import closing

import numpy as np
import pytest
import tifffile
from starlette.testclient import TestClient

from microseg_ray.geometry import Box
from microseg_ray.names import text
from microseg_ray.report.labelling.rounds import Change, Round, Rounds
from microseg_ray.report.labelling.routes import loop_routes
from microseg_ray.report.labelling.work import Work
from microseg_ray.report.viewer.label_routes import label_routes
from microseg_ray.report.viewer.labels import Labels, Sheet
from microseg_ray.report.viewer.routes import application
from microseg_ray.report.viewer.state import State
from microseg_ray.report.viewer.subject import key_of, open_subject
from microseg_ray.settings import ClassSpec
from tests.finished_runs import finished_run

CLASSES = (ClassSpec(name="matrix"), ClassSpec(name="grain"), ClassSpec(name="pore"))
ODD = os.fsdecode(b'<b onclick="x()">\'\n\xff.tif')
SHAPE = (40, 30)


@pytest.fixture
def place(tmp_path):
    """A run of three micrographs, one of which is gone."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[10:30, 5:25] = 1
    run = finished_run(tmp_path, CLASSES, dict.fromkeys(("a.tif", ODD, "gone.tif"), (mask, None)), 64)
    run.write_tables(run.names(), [])
    (tmp_path / "archive" / "gone.tif").unlink()
    return tmp_path


@pytest.fixture
def desk(place):
    """A client of the page, its labels, and what it has started."""
    run = place / "run"
    subject = open_subject(str(run))
    labels = Labels(run / "labels", subject.classes)
    state = State(subject, place / "cache")
    with closing(state), closing(Work(run, labels.folder)) as work:
        routes = [*label_routes(state, labels, "Ann"), *loop_routes(state, labels.folder, Rounds(labels.folder), work)]
        with TestClient(application(state, routes)) as client:
            client.work, client.labels = work, labels
            yield client


def stroke(version=0, session="one", who="Ann", value=1, **more):
    points = [[5.5, 5.5], [5.5, 15.5]]
    return {
        "tool": "brush", "value": value, "points": points, "radius": 2, "who": who, "session": session,
        "version": version, "stroke": f"{session}-{version}", **more,
    }  # fmt: skip


def painted(labels, name="a.tif"):
    return labels.pixels(Sheet(name, "", SHAPE, None), Box.of_shape(SHAPE))


def test_two_people_the_second_is_told_who_and_nothing_of_either_is_lost(desk):
    path = f"/api/labels/{key_of('a.tif')}"
    assert desk.get(path).json() == {"version": 0, "last": None, "objection": ""}
    first = desk.post(f"{path}/stroke", json=stroke())
    assert (first.status_code, first.json()["version"]) == (200, 1)
    kept = painted(desk.labels).copy()
    refused = desk.post(f"{path}/stroke", json=stroke(session="two", who="Bob", value=2))
    assert refused.status_code == 409
    assert "Ann painted here at" in refused.json()["error"]
    np.testing.assert_array_equal(painted(desk.labels), kept)
    # Bob has looked: his stroke is taken; Ann is told in turn, and may not undo what he painted over.
    assert desk.post(f"{path}/stroke", json=stroke(1, "two", "Bob", 2)).status_code == 200
    told = desk.post(f"{path}/undo", json=stroke(1))
    assert told.status_code == 409
    assert "Bob" in told.json()["error"]
    over = desk.post(f"{path}/undo", json=stroke(2))
    assert over.status_code == 400
    assert "Bob painted over" in over.json()["error"]
    assert desk.post(f"{path}/undo", json=stroke(2, "two", "Bob")).status_code == 200
    np.testing.assert_array_equal(painted(desk.labels), kept)
    assert [entry["who"] for entry in desk.labels.entries("a.tif")] == ["Ann", "Bob", "Bob"]


@pytest.mark.parametrize("key", [
    key_of("../../archive/a.tif"), key_of("/etc/passwd"), key_of("../run.json"), "..%2f..%2frun.json", "!!", key_of("b.tif"),
])  # fmt: skip
def test_no_address_of_labels_leads_out_of_the_run(desk, place, key):
    before = sorted(path for path in place.rglob("*"))
    for path, body in (("stroke", stroke()), ("undo", stroke()), ("copy", stroke(box=[0, 0, 9, 9]))):
        answer = desk.post(f"/api/labels/{key}/{path}", json=body)
        assert answer.status_code in {400, 404}
    assert desk.post("/api/work/learn", json={"key": key, "minutes": 1}).status_code == 400
    assert desk.get(f"/api/learn/{key}").status_code == 404
    assert sorted(path for path in place.rglob("*")) == before


def test_a_name_of_html_line_breaks_and_other_bytes_is_painted_in(desk, place):
    path = f"/api/labels/{key_of(ODD)}"
    who = "<script>alert('x')</script>"
    assert desk.post(f"{path}/stroke", json=stroke(who=who)).status_code == 200
    answer = desk.get(path)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["last"]["who"] == who
    assert (painted(desk.labels, ODD) == 1).any()
    from microseg_ray.catalog.table import read_table

    (row,) = read_table(place / "run" / "labels" / "labels.csv")
    assert row.image == place / "archive" / ODD
    assert desk.post("/api/labels/classes", json={"name": "<b>", "color": "red"}).status_code == 400
    assert desk.post("/api/labels/classes", json={"name": "<b>"}).json()["index"] == 3


def test_a_micrograph_that_is_gone_is_shown_but_not_painted(desk):
    path = f"/api/labels/{key_of('gone.tif')}"
    assert "cannot be read" in desk.get(path).json()["objection"]
    answer = desk.post(f"{path}/stroke", json=stroke())
    assert answer.status_code == 400
    assert "cannot be read" in answer.json()["error"]
    assert not desk.labels.labelled("gone.tif")
    # Labels of a file that has another shape now are refused, and kept.
    assert desk.post(f"/api/labels/{key_of('a.tif')}/stroke", json=stroke()).status_code == 200
    kept = painted(desk.labels).copy()
    with pytest.raises(ValueError, match="the file has changed since it was labelled"):
        desk.labels.pixels(Sheet("a.tif", "", (50, 30), None), Box(0, 0, 9, 9))
    np.testing.assert_array_equal(painted(desk.labels), kept)


@pytest.mark.parametrize("body", [b"no json", b"[1]", b"{}", b"\xff", json.dumps(stroke(version=-1)).encode(),
    json.dumps(stroke(who="x" * 99)).encode(), json.dumps(stroke(value=7)).encode()])  # fmt: skip
def test_what_is_no_stroke_changes_nothing(desk, body):
    answer = desk.post(f"/api/labels/{key_of('a.tif')}/stroke", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert not desk.labels.labelled("a.tif")


def test_a_page_that_is_closed_in_mid_stroke_has_sent_what_was_drawn(desk):
    # The browser's beacon has no content type of JSON.
    content = json.dumps(stroke()).encode()
    headers = {"content-type": "text/plain;charset=UTF-8"}
    assert desk.post(f"/api/labels/{key_of('a.tif')}/stroke", content=content, headers=headers).status_code == 200
    assert (painted(desk.labels) == 1).any()


def test_places_of_a_list_are_those_of_this_page_and_a_damaged_list_is_named(desk, place):
    assert desk.get("/api/next").json()["places"] is None
    folder = place / "run" / "labels"
    folder.mkdir()
    own, other = ({"key": key_of(name), "box": [0, 0, 9, 9], "reasons": ""} for name in (ODD, "../a"))
    (folder / "next.json").write_text(json.dumps({"places": [own, other, {}, 3], "note": "n"}))
    assert desk.get("/api/next").json() == {"places": [own], "note": "n"}
    (folder / "next.json").write_text("{")
    assert desk.get("/api/next").status_code == 404
    assert "next.json" in desk.get("/api/next").json()["error"]


@pytest.mark.parametrize("minutes", ["x", 0, -1, 1e9, None])
def test_minutes_that_cannot_be_are_refused(desk, minutes):
    answer = desk.post("/api/work/learn", json={"key": key_of("a.tif"), "minutes": minutes})
    assert answer.status_code == 400
    assert "minutes" in answer.json()["error"]
    assert desk.get("/api/work").json() == {"kind": "", "running": False}


def test_one_at_a_time_and_a_cancelled_one_is_gone(desk, monkeypatch, tmp_path):
    # A program that goes on until it is ended, in place of a round of minutes.
    slow = tmp_path / "slow"
    slow.write_text("#!/bin/sh\necho begun\nexec sleep 600\n")
    slow.chmod(0o755)
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", str(slow))
        assert desk.post("/api/work/next", json={}).json()["running"]
    busy = desk.post("/api/work/learn", json={"key": key_of("a.tif")})
    assert busy.status_code == 400
    assert "running already" in busy.json()["error"]
    process = desk.work._process
    assert desk.post("/api/work/cancel", json={}).json() | {"seconds": 0, "began": 0} == {
        "kind": "next", "running": False, "began": 0, "seconds": 0, "failed": True, "cancelled": True, "says": "begun",
    }  # fmt: skip
    assert process.poll() is not None
    with monkeypatch.context() as patched:
        patched.setattr(sys, "executable", str(slow))
        desk.post("/api/work/next", json={})
    process = desk.work._process
    assert process.poll() is None
    # The end of the page is the end of what it started.
    desk.work.cancel()
    assert process.poll() is not None


def test_why_a_round_failed_is_said(desk):
    assert desk.post("/api/work/learn", json={"key": key_of(ODD), "minutes": 1}).status_code == 200
    for _ in range(1200):
        found = desk.get("/api/work").json()
        if not found["running"]:
            break
        time.sleep(0.1)
    assert found["failed"]
    assert not found["cancelled"]
    assert "nothing is labelled yet" in found["says"]


def test_what_rounds_did_to_a_micrograph_is_listed(desk, place):
    rounds = Rounds(place / "run" / "labels")
    change = Change(key_of(ODD), 100, 7, 10, 4, 9)
    rounds.write(Round(1, "now", "start", ("a", "b"), (5, 5), 20, {"train": 2.0}, (change,)))
    # A round without its record was broken off.
    rounds.place(2).mkdir()
    assert rounds.last() == 1
    (found,) = desk.get(f"/api/learn/{key_of(ODD)}").json()["rounds"]
    assert (found["round"], found["changed"], found["right_after"]) == (1, 7, 9)
    assert desk.get(f"/api/learn/{key_of('a.tif')}").json()["rounds"] == []
    assert rounds.newest(ODD) is None


def test_an_archive_has_no_loop(tmp_path):
    (tmp_path / "archive").mkdir()
    tifffile.imwrite(tmp_path / "archive" / "a.tif", np.zeros((9, 9), np.uint8))
    state = State(open_subject(str(tmp_path / "archive")), tmp_path / "cache")
    with closing(state), TestClient(application(state, label_routes(state, None, ""))) as client:
        assert client.get("/api/labels").json() == {"labels": False}
        assert client.get("/api/work").status_code == 404
        assert text(client.get("/api/list?sort=name").json()["rows"][0]["name"]) == "a.tif"
