"""URLs: the same pixels as from the local file, fetched by region where the server can; archives of URLs."""

from __future__ import annotations

import contextlib
import http.server
import re
import threading
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

from microseg_ray.errors import InputError
from microseg_ray.geometry import Box
from microseg_ray.sources import (
    fingerprint,
    list_files,
    member_path,
    open_micrograph,
    read_mask,
    root_of,
    survey_inputs,
)
from tests.format_files import write_dm, write_fits
from tests.source_files import COLOR, DEEP, GRAY, RNG, ome_zarr

BIG = RNG.integers(0, 60_000, (1500, 1400), dtype=np.uint16)


def write_files(folder):
    (folder / "b (1)").mkdir(parents=True)
    tifffile.imwrite(folder / "b (1)" / "ä #2 50%.tif", BIG, tile=(64, 64), compression="zlib")
    tifffile.imwrite(folder / "plain.tif", BIG, byteorder=">")
    tifffile.imwrite(folder / "rgb.TIF", COLOR, photometric="rgb")
    tifffile.imwrite(folder / "planar.tif", np.moveaxis(COLOR, -1, 0), photometric="rgb", planarconfig="separate")
    Image.fromarray(GRAY).save(folder / "a.png")
    Image.fromarray(GRAY).save(folder / "a.bmp")
    write_fits(folder / "a.fits", DEEP)
    write_dm(folder / "a.dm3", DEEP, 3)
    ome_zarr("0.5", "yx", DEEP, None)(folder)
    zarr.create_array(folder / "plain.zarr", data=DEEP, chunks=(32, 32), zarr_format=2)
    (folder / "notes.txt").write_text("no image")
    (folder / ".hidden.tif").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write_files(tmp_path_factory.mktemp("files") / "archive")


@dataclass
class Server:
    """A web server of a folder; `sent` counts the bytes of files."""

    url: str
    sent: list[int] = field(default_factory=list)


@contextlib.contextmanager
def serving(folder, *, ranges: bool):
    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *arguments):
            pass

        def do_GET(self):
            span = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            local = self.translate_path(self.path)
            if not (ranges and span) or not Path(local).is_file():
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    super().do_GET()
                return
            with Path(local).open("rb") as file:
                content = file.read()
            part = content[int(span[1]) : int(span[2]) + 1]
            server.sent.append(len(part))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {span[1]}-{span[2]}/{len(content)}")
            self.send_header("Content-Length", str(len(part)))
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(part)

    http_server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http_server.serve_forever, daemon=True)
    thread.start()
    server = Server(f"http://127.0.0.1:{http_server.server_port}")
    try:
        yield server
    finally:
        http_server.shutdown()
        http_server.server_close()
        thread.join()


@contextlib.contextmanager
def somewhere(kind, folder):
    """The URL of a copy of a folder."""
    if kind == "file":
        yield f"file://{folder}"
    elif kind == "memory":
        name = uuid.uuid4().hex
        memory = fsspec.filesystem("memory")
        memory.put(f"{folder}/", f"/{name}/", recursive=True)
        yield f"memory://{name}"
        memory.rm(f"/{name}", recursive=True)
    else:
        with serving(folder, ranges=kind == "http") as server:
            yield server.url


@pytest.mark.parametrize("kind", ["file", "memory", "http", "http without ranges"])
def test_an_archive_of_urls_is_that_of_its_files(files, kind):
    local = survey_inputs(files).entries
    assert len(local) == 10
    with somewhere(kind, files) as url:
        remote = survey_inputs(url).entries
        assert [name for name, _ in remote] == [name for name, _ in local]
        for (name, where), (_, path) in zip(remote, local, strict=True):
            assert member_path(root_of(url), name) == where
            with open_micrograph(path) as expected, open_micrograph(where) as found:
                assert (found.info.shape, found.info.dtype, found.info.lazy) == (
                    expected.info.shape, expected.info.dtype, expected.info.lazy)  # fmt: skip
                assert found.info.pixel_size_um == expected.info.pixel_size_um
                box = Box(11, 13, 70, 111)
                np.testing.assert_array_equal(found.read(box), expected.read(box))
            assert fingerprint(where, "stat") == fingerprint(where, "stat")
            assert fingerprint(where, "content") == fingerprint(path, "content")


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_globs_and_single_files(files, kind):
    with somewhere(kind, files) as url:
        assert [name for name, _ in survey_inputs(f"{url}/**/*.tif").entries] == [
            "b (1)/ä #2 50%.tif",
            "plain.tif",
            "planar.tif",
        ]
        assert [name for name, _ in survey_inputs(f"{url}/plain.tif").entries] == ["plain.tif"]
        assert [name for name, _ in survey_inputs(f"{url}/plain.zarr").entries] == ["plain.zarr"]
        with pytest.raises(InputError, match="no images found"):
            survey_inputs(f"{url}/*.gif")


@pytest.mark.parametrize("name", ["b (1)/ä #2 50%.tif", "plain.tif"])
def test_a_region_fetches_a_part_of_the_file(files, name):
    with serving(files, ranges=True) as server:
        with open_micrograph(member_path(server.url, name)) as micrograph:
            found = micrograph.read(Box(0, 0, 64, 1400))[0]
        np.testing.assert_array_equal(found, BIG[:64])
        assert server.sent
        assert sum(server.sent) < 0.9 * BIG.nbytes


def test_a_mask_behind_a_url(files):
    with somewhere("memory", files) as url:
        np.testing.assert_array_equal(read_mask(f"{url}/a.png"), GRAY)


@pytest.mark.parametrize("name", ["plain.tif", "plain.zarr"])
def test_a_changed_remote_file_is_noticed(tmp_path, name):
    write_files(tmp_path / "files")
    with somewhere("memory", tmp_path / "files") as url:
        before = fingerprint(f"{url}/{name}", "stat"), fingerprint(f"{url}/{name}", "content")
        memory = fsspec.filesystem("memory")
        inner = f"/{url.removeprefix('memory://')}/{name}" + ("/0.0" if name.endswith(".zarr") else "")
        content = bytearray(memory.cat(inner))
        content[-1] ^= 1
        memory.pipe(inner, bytes(content))
        after = fingerprint(f"{url}/{name}", "stat"), fingerprint(f"{url}/{name}", "content")
        assert before[0] != after[0]
        assert before[1] != after[1]


REFUSED = {
    "memory://no-such-folder/a.tif": "no such file or folder",
    "memory://no-such-folder/a.zarr": "no such file or folder",
    "http://127.0.0.1:1/a.tif": "the server cannot be reached .*; check the address and the network",
    "nothing://host/a.tif": "Protocol not known: nothing",
}


@pytest.mark.parametrize("url", REFUSED)
def test_urls_that_lead_nowhere(url):
    with pytest.raises(InputError, match=REFUSED[url]) as caught:
        open_micrograph(url)
    assert caught.value.where == url
    assert caught.value.advice
    with pytest.raises(InputError):
        fingerprint(url, "stat")


def test_a_missing_page_and_a_truncated_file_on_a_server(files, tmp_path):
    (tmp_path / "cut.tif").write_bytes((files / "plain.tif").read_bytes()[:400_000])
    with serving(tmp_path, ranges=True) as server:
        with pytest.raises(InputError, match="no such file or folder"):
            open_micrograph(f"{server.url}/no.tif")
        with pytest.raises(InputError, match="the file is truncated"):
            open_micrograph(f"{server.url}/cut.tif")


def test_where_only_local_files_will_do_urls_say_so():
    with pytest.raises(InputError, match="a URL cannot be used here; copy the files"):
        list_files("https://host/images")


@pytest.mark.parametrize("kind", ["memory", "http"])
def test_segmenting_an_archive_of_urls_gives_the_same_masks(archive, checkpoint, tmp_path, kind, tree_of):
    from microseg_ray.on_ray.actors import segment
    from microseg_ray.settings import SegmentSettings

    options = {"checkpoint": str(checkpoint), "shard": 256, "workers": 0}
    here = segment(SegmentSettings(archive=str(archive), output=str(tmp_path / "here"), **options))
    with somewhere(kind, archive) as url:
        there = segment(SegmentSettings(archive=url, output=str(tmp_path / "there"), **options))
        again = segment(SegmentSettings(archive=url, output=str(tmp_path / "there"), **options))
    assert not there.ledger.failures
    assert again.ledger.computed == 0
    assert there.run.names() == here.run.names()

    chunks = [
        {name: digest for name, digest in tree_of(tmp_path / run / "masks").items() if not name.endswith(".json")}
        for run in ("here", "there")
    ]
    assert chunks[0] == chunks[1]
