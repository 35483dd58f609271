"""The server: who is let in, what is answered, and that no name leads out of the run."""

import http.client
import io
import json
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from skimage.measure import label

from microseg_ray.cli import main
from microseg_ray.names import text
from microseg_ray.report.viewer.hover import ObjectRows, object_at
from microseg_ray.report.viewer.listing import Order, list_micrographs, outlier_scores
from microseg_ray.report.viewer.server import bound_socket
from microseg_ray.report.viewer.state import find_truths
from microseg_ray.report.viewer.subject import key_of, name_of, open_subject
from microseg_ray.runs.folder import Run
from microseg_ray.runs.store.masks import MaskStore

from .conftest import BROKEN, HOSTILE, Page, serving


def raw(page, path, headers):
    """(status, headers, content) of a request with nothing that a browser adds."""
    connection = http.client.HTTPConnection(urlsplit(page.base).netloc, timeout=10)
    connection.putrequest("GET", path, skip_host=True)
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    content = answer.read()
    connection.close()
    return answer.status, answer.headers, content


def test_only_its_own_page_with_its_token_is_answered(page):
    host, token = urlsplit(page.base).netloc, page.address.partition("token=")[2]
    port = host.partition(":")[2]
    cookie = {"Cookie": f"microseg_{port}={token}"}
    assert raw(page, "/api/subject", {"Host": host, **cookie})[0] == 200
    assert raw(page, "/api/subject", {"Host": f"localhost:{port}", **cookie})[0] == 200
    assert raw(page, "/api/subject", {"Host": host})[0] == 403
    assert raw(page, "/api/subject", {"Host": host, "Cookie": f"microseg_{port}={token[:-1]}"})[0] == 403
    assert raw(page, "/api/subject?token=wrong", {"Host": host})[0] == 403
    assert raw(page, "/api/subject", {"Host": f"evil.example:{port}", **cookie})[0] == 421
    assert raw(page, f"/?token={token}", {"Host": "evil.example"})[0] == 421
    assert raw(page, "/api/subject", {"Host": host, "Origin": "http://evil.example", **cookie})[0] == 403
    status, headers, _ = raw(page, f"//evil.example/?token={token}", {"Host": host})
    assert (status, headers["location"]) == (303, "/evil.example/")
    assert "HttpOnly" in headers["set-cookie"]
    assert "SameSite=Strict" in headers["set-cookie"]


@pytest.mark.parametrize("path", [
    "/static/../routes.py", "/static/%2e%2e/routes.py", "/static/..%2f..%2fpage.py", "/static//etc/passwd",
    f"/tile/mask/{key_of('../../archive/large.tif')}/0/0/0", f"/tile/image/{key_of('/etc/passwd')}/0/0/0",
    f"/thumbnail/{key_of('../run/run.json')}", "/thumbnail/%2e%2e", "/thumbnail/!!", "/api/micrograph/..%2f..",
    f"/tile/mask/{key_of('large.tif')}/9/0/0", f"/tile/mask/{key_of('large.tif')}/0/99/0",
    f"/tile/truth/{key_of('large.tif')}/0/0/0",
])  # fmt: skip
def test_no_address_leads_out_of_the_run(page, path):
    token, host = page.address.partition("token=")[2], urlsplit(page.base).netloc
    status, _, content = raw(page, path, {"Host": host, "Cookie": f"microseg_{host.partition(':')[2]}={token}"})
    assert status == 404
    assert b"root:" not in content
    assert b"import" not in content


def test_everything_of_the_page_comes_from_itself(page):
    _, content, headers = page.ask("")
    assert b"https://" not in content
    assert "default-src 'self'" in headers["content-security-policy"]


def test_the_list_has_every_micrograph_with_the_numbers_of_the_tables(page, viewed_run):
    rows = page.json("api/list?size=200")["rows"]
    assert {row["name"] for row in rows} == {"large.tif", text(HOSTILE), text(BROKEN), "empty.tif"}
    areas = {(row["micrograph"], row["class_index"]): row["area_fraction"] for row in Run.open(viewed_run).areas()}
    for row in rows:
        expected = [areas.get((row["name"], index)) for index in range(3)]
        assert row["fractions"] == expected
        assert row["state"] == ("failed" if row["name"] == "empty.tif" else "finished")
    assert "0 bytes" in page.row("empty.tif")["reason"]
    assert page.row("large.tif")["intervals"][0][0] is not None
    assert [row["name"] for row in page.json("api/list?contains=LARGE")["rows"]] == ["large.tif"]
    assert [row["name"] for row in page.json("api/list?state=failed")["rows"]] == ["empty.tif"]
    assert page.ask("api/list?sort=7")[0] == 400
    assert page.ask("api/list?size=100000")[0] == 400


def pixels_of(content):
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))


@pytest.mark.parametrize("name", ["large.tif", HOSTILE, BROKEN])
def test_tiles_of_a_mask_are_the_mask(page, viewed_run, name):
    store = MaskStore.open(Run.open(viewed_run).store_path(name))
    colors = np.array([[0x20, 0x20, 0x20], [0xE6, 0x9F, 0], [0x56, 0xB4, 0xE9]])
    _, content, headers = page.ask(f"tile/mask/{key_of(name)}/0/0/0?hide=1")
    mask, shown = store.mask[:512, :512], pixels_of(content)
    np.testing.assert_array_equal(shown[..., :3], colors[mask])
    np.testing.assert_array_equal(shown[..., 3], np.where(mask == 1, 0, 255))
    assert headers["content-type"] == "image/png"
    status, content, _ = page.ask(f"tile/image/{key_of(name)}/0/0/0")
    assert status == 200
    assert pixels_of(content).shape[:2] == mask.shape
    assert page.ask(f"thumbnail/{key_of(name)}")[0] == 200
    assert page.ask(f"tile/margin/{key_of(name)}/0/0/0")[0] == 200


def test_coarse_tiles_come_from_the_pyramid(page, viewed_run):
    store = MaskStore.open(Run.open(viewed_run).store_path("large.tif"))
    info = page.json(f"api/micrograph/{key_of('large.tif')}")
    assert info["shape"] == [1100, 900]
    assert info["layers"] == ["image", "mask", "margin"]
    _, content, _ = page.ask(f"tile/mask/{key_of('large.tif')}/2/0/0")
    import zarr

    level = zarr.open_array(Path(store.path) / "2", mode="r")[:]
    np.testing.assert_array_equal(pixels_of(content)[..., 0] == 0xE6, level == 1)


def test_seams_are_where_cores_and_shards_meet(page):
    seams = page.json(f"api/micrograph/{key_of('large.tif')}/seams")
    assert seams["shards"] == [[256, 512, 768, 1024], [256, 512, 768]]
    assert set(seams["shards"][0]) <= set(seams["tiles"][0])


def test_an_object_is_that_of_the_table(page, viewed_run):
    import pyarrow.parquet as pq

    table = pq.read_table(viewed_run / "objects.parquet").to_pylist()
    store = MaskStore.open(Run.open(viewed_run).store_path("large.tif"))
    small = [row for row in table if row["micrograph"] == "large.tif" and row["pixel_count"] < 5000]
    row = max(small, key=lambda row: row["pixel_count"])
    inside = label(store.mask[:] == row["class_index"], connectivity=2)
    own = inside[row["y0"] : row["y1"], row["x0"] : row["x1"]]
    number = next(n for n in np.unique(own) if n and (inside == n).sum() == row["pixel_count"])
    y, x = np.argwhere(inside == number)[0]
    found = page.json(f"api/micrograph/{key_of('large.tif')}/object?y={y}&x={x}")
    assert (found["object"], found["pixel_count"]) == (row["object"], row["pixel_count"])
    assert page.json(f"api/micrograph/{key_of('large.tif')}/object?y=-1&x=0") is None


@settings(max_examples=40)
@given(st.integers(0, 1000), st.integers(2, 12), st.sampled_from([1, 2]))
def test_the_object_of_a_pixel_is_its_component(seed, side, connectivity):
    mask = np.random.default_rng(seed).integers(0, 3, (side, side + 3)).astype(np.uint8)
    classes, boxes, pixels, owner = [], [], [], np.full(mask.shape, -1)
    for value in range(3):
        labels = label(mask == value, connectivity=connectivity)
        for number in range(1, labels.max() + 1):
            where = labels == number
            ys, xs = np.nonzero(where)
            owner[where] = len(pixels)
            classes.append(value)
            boxes.append([ys.min(), xs.min(), ys.max() + 1, xs.max() + 1])
            pixels.append(where.sum())
    import pyarrow as pa

    rows = ObjectRows(
        pa.table({"object": list(range(len(pixels)))}), np.array(classes), np.array(boxes), np.array(pixels)
    )
    for y, x in np.ndindex(mask.shape):
        found = object_at(rows, y, x, lambda box: mask[box.slices])
        assert found is not None
        # With edges alone, a component by corners of the same size may be taken only if it is the same one.
        assert pixels[found["object"]] == pixels[owner[y, x]]
        assert found["object"] == owner[y, x]


@given(st.lists(st.lists(st.floats(0, 1), min_size=2, max_size=2), min_size=1, max_size=20))
def test_outliers_are_never_negative_and_the_median_is_none(rows):
    fractions = np.array([*rows, [np.nan, np.nan]])
    scores = outlier_scores(fractions)
    assert np.isnan(scores[-1])
    assert (scores[:-1] >= 0).all()
    same = outlier_scores(np.array([rows[0]] * 5))
    assert (same == 0).all()


def test_rows_without_a_value_come_last_in_both_directions(viewed_run):
    listing = list_micrographs(open_subject(str(viewed_run)))
    for sort in ("outlier", "0", "2"):
        for descending in (True, False):
            places, total = listing.select(Order(sort, descending))
            assert total == 4
            assert listing.names[places[-1]] == "empty.tif"
            values = listing.scores if sort == "outlier" else listing.fractions[:, int(sort)]
            known = values[places[:-1]]
            assert list(known) == sorted(known, reverse=descending)


@given(st.binary(min_size=1, max_size=30).filter(lambda name: b"\0" not in name))
def test_a_key_is_its_name_whatever_its_bytes(name):
    import os

    assert name_of(key_of(os.fsdecode(name))) == os.fsdecode(name)


def test_an_archive_a_half_finished_run_and_a_deleted_file_are_shown(viewed_run, tmp_path):
    import shutil

    archive, run = tmp_path / "archive", tmp_path / "run"
    shutil.copytree(viewed_run.parent / "archive", archive)
    with serving(archive, "--cache", tmp_path / "cache") as page:
        assert page.json("api/subject")["counts"]["image"] == 4
        assert page.json(f"api/micrograph/{key_of('large.tif')}")["layers"] == ["image"]
    shutil.copytree(viewed_run, run)
    document = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps({**document, "archive": str(archive)}))
    for table in ("areas.csv", "areas.parquet"):
        (run / table).unlink()
    store = MaskStore.open(Run.open(run).store_path("large.tif"))
    store.forget((0, 1))
    store._file(store.mask, (0, 1)).unlink()
    store._unfinish()
    (archive / HOSTILE).unlink()
    with serving(run, "--cache", tmp_path / "cache") as page:
        row = page.row("large.tif")
        assert row["state"] == "unfinished"
        assert not page.json(f"api/micrograph/{row['key']}")["finished"]
        shown = pixels_of(page.ask(f"tile/mask/{row['key']}/0/0/0")[1])
        assert (shown[:256, 256:512, 3] == 0).all()
        assert (shown[:256, :256, 3] == 255).all()
        gone = page.row(HOSTILE)
        assert gone["missing"]
        assert gone["state"] == "finished"
        info = page.json(f"api/micrograph/{gone['key']}")
        assert info["layers"] == ["mask", "margin"]
        assert "cannot be shown" in info["problems"][0]
        assert page.ask(f"thumbnail/{gone['key']}")[0] == 404
        assert page.ask(f"api/micrograph/{key_of('empty.tif')}")[0] == 404


def test_truth_and_difference(viewed_run, tmp_path):
    store = MaskStore.open(Run.open(viewed_run).store_path("large.tif"))
    truth = store.mask[:].copy()
    truth[:100] = (truth[:100] + 1) % 3
    truth[100:120] = 255
    (tmp_path / "truth").mkdir()
    Image.fromarray(truth).save(tmp_path / "truth" / "large.png")
    with serving(viewed_run, "--truth", tmp_path / "truth", "--cache", tmp_path / "cache") as page:
        info = page.json(f"api/micrograph/{key_of('large.tif')}")
        assert info["layers"] == ["image", "mask", "margin", "truth", "difference"]
        shown = pixels_of(page.ask(f"tile/difference/{key_of('large.tif')}/0/0/0")[1])
        assert (shown[:100, :, 3] == 255).all()
        assert (shown[100:, :, 3] == 0).all()
    assert find_truths(str(tmp_path / "truth"), ("a/large.tif", "b.tif")) == {
        "a/large.tif": tmp_path / "truth" / "large.png"
    }


def test_what_cannot_be_shown_is_named(tmp_path, microseg):
    assert microseg("view", tmp_path / "nowhere", "--no-browser").code == 1
    assert "neither a run nor an archive" in microseg("view", tmp_path / "nowhere", "--no-browser").err
    assert main(["view", "--port", "99999", "--run", str(tmp_path)]) == 2
    assert isinstance(Page, type)


def test_a_browser_may_ask_before_the_server_answers():
    """The address is printed while the rest of the program is imported; a click on it waits and is not refused."""
    with bound_socket(0) as found, socket.create_connection(found.getsockname(), timeout=5) as early:
        assert early.getpeername() == found.getsockname()


def test_the_list_is_made_before_anything_is_imported_that_reads_pixels(viewed_run, tmp_path):
    """Else the page of 10,000 micrographs waits: zarr alone takes as long as all the rest (docs/results/view.md)."""
    code = f"""
import sys, time, uvicorn
from microseg_ray.cli import main
from microseg_ray.jobs import view
def run(server, sockets):
    assert state.listing.names
    heavy = {{"zarr", "pandas", "scipy", "skimage", "tifffile", "PIL", "torch", "ray"}} & set(sys.modules)
    assert not heavy, heavy
def list_then_wait(given):
    global state
    state = given
view._list, uvicorn.Server.run = list_then_wait, run
sys.exit(main(["view", {str(viewed_run)!r}, "--no-browser", "--cache", {str(tmp_path)!r}]))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
