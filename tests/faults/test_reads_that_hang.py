"""Files that never answer: pipes, sockets, devices, a server that stops in mid-answer. Set aside in time; the rest goes on."""

import http.server
import os
import socket
import threading
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr

from microseg_ray.errors import InputError, StalledInputError
from microseg_ray.geometry import Box
from microseg_ray.on_ray.actors import segment
from microseg_ray.quarantine import read_failures
from microseg_ray.settings import SegmentSettings, SourceSettings
from microseg_ray.sources import fingerprint, open_micrograph, read_mask
from microseg_ray.sources.patience import within
from tests.faults.model_free import Quick
from tests.faults.test_foreign_files import CLASSES

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="there are no named pipes here"),
    pytest.mark.usefixtures("classes_travel"),
]


def pipe(path):
    os.mkfifo(path)


def unix_socket(path):
    with socket.socket(socket.AF_UNIX) as made:
        here = Path.cwd()
        os.chdir(path.parent)  # the path of a socket may have 107 bytes
        try:
            made.bind(path.name)
        finally:
            os.chdir(here)


def device(path):
    path.symlink_to("/dev/zero")


def chunk_that_is_a_pipe(path):
    array = zarr.create_array(path.with_suffix(".zarr"), shape=(64, 64), chunks=(32, 32), dtype="uint8")
    array[:] = 7
    chunk = path.with_suffix(".zarr") / "c/1/1"
    chunk.unlink()
    os.mkfifo(chunk)


KINDS = {pipe: "a named pipe", unix_socket: "a socket", device: "a device", chunk_that_is_a_pipe: "a named pipe"}


@pytest.fixture
def hostile(tmp_path, new_pairs):
    """An archive with masks, in which one of each kind lies that would block its reader for ever."""
    new_pairs(tmp_path)
    for kind in KINDS:
        kind(tmp_path / "images" / f"{kind.__name__}.png")
    os.mkfifo(tmp_path / "masks" / "0_a.png.fifo")
    return tmp_path


def names(folder):
    return sorted({failure.path for failure in read_failures(folder / "failures.csv")})


BAD = sorted(["pipe.png", "unix_socket.png", "device.png", "chunk_that_is_a_pipe.zarr"])


@pytest.mark.parametrize("kind", ["stat", "content"])
@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.ray)])
def test_segment_sets_aside_what_is_no_file(hostile, checkpoint, microseg, ray_session, workers, kind):
    given = "--archive", hostile / "images", "--checkpoint", checkpoint, "--output", hostile / "run"
    ran = microseg("segment", *given, "--workers", workers, "--fingerprint", kind)
    assert ran.code == 3, ran
    assert names(hostile / "run") == BAD
    reasons = {failure.path: failure.reason for failure in read_failures(hostile / "run/failures.csv")}
    for make, what in KINDS.items():
        name = next(each for each in BAD if each.startswith(make.__name__))
        assert f"it is {what}, not a file" in reasons[name]


@pytest.mark.parametrize("job", ["plan", "tile", "catalog", "info", "annotate", "evaluate"])
def test_no_other_job_hangs_either(hostile, checkpoint, microseg, job):
    images, masks = ("--images", hostile / "images"), ("--masks", hostile / "masks")
    (hostile / "images/chunk_that_is_a_pipe.zarr/c/1/1").unlink()
    words = {
        "plan": (
            "--archive",
            hostile / "images",
            "--checkpoint",
            checkpoint,
            "--output",
            hostile / "o",
            "--workers",
            0,
        ),
        "tile": (*images, *masks, *CLASSES, "--tile", 32, "--overlap", 0, "--output", hostile / "o", "--workers", 0),
        "catalog": (*images, *masks, "--output", hostile / "o"),
        "info": (*(hostile / "images" / name for name in BAD[1:]),),
        "annotate": (
            *images,
            "--annotations",
            hostile / "masks",
            "--format",
            "masks",
            *CLASSES,
            "--output",
            hostile / "o",
        ),
        "evaluate": (*images, *masks, "--checkpoint", checkpoint, "--output", hostile / "o", "--resamples", 0),
    }
    ran = microseg(job, *words[job])
    assert ran.code in {0, 1, 2, 3}, ran
    assert "Traceback" not in ran.out + ran.err


def test_a_mask_that_is_a_pipe(tmp_path):
    pipe(tmp_path / "a.png")
    with pytest.raises(InputError, match="it is a named pipe, not a file"):
        read_mask(tmp_path / "a.png")


# --- a server that stops in the middle -------------------------------------------------------------------------------


@pytest.fixture
def stalling(tmp_path):
    """The URL of a folder, and an event: once it is set, the server takes requests and does not answer any more."""
    stop, over = threading.Event(), threading.Event()
    served: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(tmp_path / "served"))

        def log_message(self, *arguments):
            pass

        def do_GET(self):
            if stop.is_set() and (self.path.endswith("large.tif") or not served):
                over.wait(120)
                return
            data = (tmp_path / "served" / self.path.strip("/")).read_bytes() if self.path != "/" else b""
            served.append(self.path)
            asked = self.headers.get("Range")
            if not asked:
                super().do_GET()
                return
            first, last = (int(each) for each in asked.removeprefix("bytes=").split("-"))
            part = data[first : last + 1]
            self.send_response(206)
            self.send_header("Content-Length", str(len(part)))
            self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
            self.send_header("Accept-Ranges", "bytes")
            self.end_headers()
            self.wfile.write(part)

    (tmp_path / "served").mkdir()
    random = np.random.default_rng(0)
    for name, side in (("a.tif", 96), ("large.tif", 1600)):
        pixels = random.integers(0, 255, (side, side), np.uint8)
        tifffile.imwrite(tmp_path / "served" / name, pixels, tile=(64, 64))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", stop, over
        over.set()
        server.shutdown()


def test_a_server_that_stops_costs_its_micrograph_alone(stalling, checkpoint, tmp_path):
    url, stop, _ = stalling

    class Stops(Quick):
        def _pixels_of(self, task, box):
            # One block of 1 MiB is fetched with the header; the shards below need more.
            if task.name == "large.tif" and task.shard[0] == 4:
                stop.set()
            return super()._pixels_of(task, box)

    chosen = {
        "archive": url,
        "checkpoint": str(checkpoint),
        "output": str(tmp_path / "run"),
        "shard": 256,
        "workers": 0,
    }
    result = segment(SegmentSettings(**chosen, source=SourceSettings(read_timeout=1.0)), worker_class=Stops)
    assert [failure.path for failure in result.ledger.failures] == ["large.tif"]
    assert "gave no answer within source.read_timeout (1 s)" in result.ledger.failures[0].reason
    # 14 shards were left, and each would have waited by itself.
    assert result.ledger.computed >= 20
    stop.clear()
    again = segment(SegmentSettings(**chosen), worker_class=Quick)
    assert again.ledger.failures == []
    assert 0 < again.ledger.computed <= 29


def test_a_server_that_stops_before_the_header(stalling):
    url, stop, _ = stalling
    stop.set()
    with pytest.raises(StalledInputError, match=r"gave no answer within source\.read_timeout"):
        open_micrograph(f"{url}/a.tif", SourceSettings(read_timeout=0.5))


def test_reading_in_time_is_unchanged(tmp_path):
    """Results, errors and warnings come through; helpers are used again."""
    before = threading.active_count()
    for _ in range(50):
        assert within(5, "a", lambda: 7) == 7
        with pytest.raises(KeyError, match="no such"):
            within(5, "a", lambda: {}["no such"])
    assert threading.active_count() <= before + 1
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    with open_micrograph(tmp_path / "a.tif", SourceSettings(read_timeout=60)) as micrograph:
        assert np.array_equal(micrograph.read(Box(0, 0, 8, 8))[0], pixels)
    assert fingerprint(tmp_path / "a.tif", "stat").startswith("stat:")


def test_the_timeout_binds_nothing():
    assert "read_timeout" not in SourceSettings(read_timeout=5).model_dump()
