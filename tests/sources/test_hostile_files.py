"""Small files that claim much: refused within the limits of `source`, before they take the memory or the time."""

from __future__ import annotations

import ast
import gzip
import struct
import warnings
from pathlib import Path

import google_crc32c
import imagecodecs
import numcodecs
import numpy as np
import pytest
import tifffile
import zarr
from zarr.codecs import BloscCodec, GzipCodec, ZstdCodec
from zarr.codecs.numcodecs import BZ2, LZ4, LZMA, Zlib
from zarr.errors import ZarrUserWarning

import microseg_ray
from microseg_ray.catalog.pairing import group_of
from microseg_ray.errors import InputError, SettingsError
from microseg_ray.geometry import Box
from microseg_ray.settings import DataSettings, SourceSettings
from microseg_ray.sources import open_micrograph
from microseg_ray.sources.formats.zarr_codecs import content_size
from tests.source_files import png_bytes

GRAY = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
MANY = 24 << 20
ENTITIES = '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><OME><Image>&b;</Image></OME>'


def zarr_at(path, codec, shape=(64, 64), chunks=(64, 64)):
    array = zarr.create_array(path, shape=shape, chunks=chunks, dtype="u1", compressors=codec, fill_value=0)
    return path, array


def chunk_bomb(path, codec, content):
    path, array = zarr_at(path, codec)
    array[...] = GRAY
    (path / "c/0/0").write_bytes(content)
    return path


def tag_bomb(path, code=270):
    """A TIFF whose tag claims 1 GiB; the file is sparse."""
    tags = [(256, 3, 1, 64), (257, 3, 1, 64), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (code, 2, 1 << 30, 8192),
            (273, 4, 1, 1024), (277, 3, 1, 1), (278, 3, 1, 64), (279, 4, 1, 4096)]  # fmt: skip
    with path.open("wb") as file:
        file.write(b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags))
        file.truncate((1 << 30) + 8192)
    return path


def second_tag_bomb(path):
    """A TIFF of two pages, of which the second has a tag of 1 GiB."""
    with tifffile.TiffWriter(path) as made:
        for _ in range(2):
            made.write(GRAY, description="d" * 40, metadata=None)
    with tifffile.TiffFile(path) as file:
        place = file.pages[1].tags[270].offset + 4
    with path.open("r+b") as file:
        file.seek(place)
        file.write(struct.pack("<I", 1 << 30))
    return path


def chunk_png(path):
    good = png_bytes((4, 4), 8, 0, b"")
    with path.open("wb") as file:
        file.write(good[:33] + struct.pack(">I", 1 << 28) + b"tEXt")
        file.truncate((1 << 28) + 100)
    return path


def entities(path):
    tifffile.imwrite(path, GRAY, description=ENTITIES, metadata=None)
    return path


# libzstd's own streaming frames state no size: the same content, without the field.
UNSIZED = b"\x28\xb5\x2f\xfd\x00\x58" + struct.pack("<I", (1 << 17) << 3 | 2)[:3] + b"\0"
UNSIZED = UNSIZED * 1 + (struct.pack("<I", (1 << 17) << 3 | 2)[:3] + b"\0") * 150 + struct.pack("<I", 1)[:3]
HOSTILE = {
    "tiff tag": (lambda f: tag_bomb(f / "a.tif"), "tag 270 claims 1024 MiB of metadata .*max_metadata_mib"),
    "tiff private tag": (lambda f: tag_bomb(f / "a.tif", 271), "tag 271 claims 1024 MiB"),
    "tiff tag of a later page": (lambda f: second_tag_bomb(f / "a.tif"), "tag 270 claims 1024 MiB"),
    "png chunk": (lambda f: chunk_png(f / "a.png"), "chunk tEXt claims 256 MiB of metadata"),
    "ome entities": (lambda f: entities(f / "a.tif"), "declares a document type or entities"),
    "zarr tiny chunks": (lambda f: zarr_at(f / "a.zarr", ZstdCodec(), (4096, 4096), (1, 1))[0], "16777216 chunks of 1 x 1 px"),
    "zarr of nothing": (lambda f: zarr_at(f / "a.zarr", ZstdCodec(), (500_000,) * 2, (1024,) * 2)[0], "no such compression"),
    "zarr gzip": (lambda f: chunk_bomb(f / "a.zarr", GzipCodec(), gzip.compress(bytes(MANY), 1)), "decodes to more than"),
    "zarr zstd": (lambda f: chunk_bomb(f / "a.zarr", ZstdCodec(), imagecodecs.zstd_encode(bytes(MANY))), "decodes to more than"),
    "zarr zstd of no stated size": (lambda f: chunk_bomb(f / "a.zarr", ZstdCodec(), UNSIZED), "decodes to more than"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_refused_with_its_reason(tmp_path, name):
    make, message = HOSTILE[name]
    path = make(tmp_path)
    with pytest.raises(InputError, match=message) as caught, open_micrograph(path) as micrograph:
        micrograph.read(Box.of_shape((64, 64)))
    assert caught.value.where == str(path)
    assert caught.value.advice


NUMCODECS = {
    codec.codec_id: codec
    for codec in (
        *(numcodecs.Zlib(1), numcodecs.GZip(1), numcodecs.BZ2(1), numcodecs.LZMA(preset=1), numcodecs.Zstd(1)),
        *(numcodecs.Blosc(), numcodecs.LZ4()),
    )
}


def zarr_of_codec(path, name, layout):
    """A zarr of 64 x 64 px with a codec of numcodecs, and the file of its one chunk."""
    shape = {"shape": (64, 64), "dtype": "u1", "fill_value": 0}
    match layout:
        case "version 2":
            array = zarr.create_array(path, **shape, chunks=(64, 64), compressors=NUMCODECS[name], zarr_format=2)
        case "filtered":
            delta = numcodecs.Delta("u1")
            array = zarr.create_array(
                path, **shape, chunks=(64, 64), compressors=NUMCODECS[name], filters=delta, zarr_format=2
            )
        case _:
            codecs = {"gzip": GzipCodec(), "zstd": ZstdCodec(), "blosc": BloscCodec()}
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ZarrUserWarning)  # numcodecs' are not in the specification
                own = {each.codec_name.rpartition(".")[2]: each for each in (Zlib, BZ2, LZMA, LZ4)}
                codec = codecs[name] if name in codecs else own[name]()
                shards = (64, 64) if layout == "sharded" else None
                array = zarr.create_array(path, **shape, chunks=(64, 32), shards=shards, compressors=codec)
    return array, path / ("0.0" if layout in {"version 2", "filtered"} else "c/0/0")


@pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr version 3:zarr.errors.ZarrUserWarning")
@pytest.mark.parametrize("layout", ["version 2", "filtered", "version 3", "sharded"])
@pytest.mark.parametrize("name", NUMCODECS)
def test_every_codec_reads_its_chunks_and_no_more(tmp_path, name, layout):
    array, chunk = zarr_of_codec(tmp_path / "a.zarr", name, layout)
    array[...] = GRAY
    with open_micrograph(tmp_path / "a.zarr") as micrograph:
        np.testing.assert_array_equal(micrograph.read(Box.of_shape((64, 64)))[0], GRAY)
    bomb = NUMCODECS[name].encode(bytes(MANY))
    if layout == "sharded":
        # The index at the end: where each of two chunks begins, how long it is, and its CRC32C.
        index = struct.pack("<4Q", 0, len(bomb), 0, len(bomb))
        bomb += index + struct.pack("<I", google_crc32c.value(index))
    chunk.write_bytes(bomb)
    with (
        pytest.raises(InputError, match="decodes to more than the"),
        open_micrograph(tmp_path / "a.zarr") as micrograph,
    ):
        micrograph.read(Box.of_shape((64, 64)))


def test_the_frame_of_no_stated_size_is_a_bomb_indeed():
    assert content_size(UNSIZED) is None
    assert len(imagecodecs.zstd_decode(UNSIZED)) == 151 << 17
    assert content_size(imagecodecs.zstd_encode(bytes(MANY))) == MANY


@pytest.mark.parametrize("codec", [GzipCodec(), ZstdCodec(), ZstdCodec(checksum=True)])
def test_good_chunks_read_as_before(tmp_path, codec):
    path, array = zarr_at(tmp_path / "a.zarr", codec, chunks=(20, 28))
    array[...] = GRAY
    with open_micrograph(path) as micrograph:
        np.testing.assert_array_equal(micrograph.read(Box.of_shape((64, 64)))[0], GRAY)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_pixels": 4095}, "more than 4095; .*source.max_pixels"),
        ({"max_metadata_mib": 1e-6}, "allowed: 1e-06"),
        ({"max_chunk_gib": 1e-6}, "takes 0.0 GiB"),
    ],
)
def test_limits_are_settings(tmp_path, change, message):
    tifffile.imwrite(tmp_path / "a.tif", GRAY, tile=(32, 48), compression="zlib")
    with open_micrograph(tmp_path / "a.tif") as micrograph:
        assert micrograph.info.shape == (64, 64)
    with pytest.raises(InputError, match=message):
        open_micrograph(tmp_path / "a.tif", SourceSettings(**change))
    assert SourceSettings(**change).model_dump() == SourceSettings().model_dump()


def test_an_expression_that_never_ends_stops_the_job(tmp_path):
    name = tmp_path / f"{'a' * 60}b.png"
    with pytest.raises(SettingsError, match=r"group '\(a\|aa\)\+\$': the expression took longer than 1 s on the name"):
        group_of(DataSettings(group="(a|aa)+$"), name, tmp_path)
    assert group_of(DataSettings(group="^(a+)b"), name, tmp_path) == "a" * 60
    assert group_of(DataSettings(group=r"(?<=a)b$"), name, tmp_path) == "b"


def test_nothing_of_ours_unpickles_or_parses_xml_with_entities():
    """Ray's own transport of tasks between our processes, which reads no file, is the one exception."""
    found = []
    for file in Path(microseg_ray.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            text = ast.unparse(node) if isinstance(node, ast.Call | ast.Import | ast.ImportFrom) else ""
            if isinstance(node, ast.Call):
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                called = ast.unparse(node.func)
                bad = (
                    given.get("allow_pickle", "False") != "False"
                    or (called == "torch.load" and given.get("weights_only") != "True")
                    or called in {"ET.fromstring", "ET.parse", "ET.XML", "eval", "exec", "yaml.load", "joblib.load"}
                )
            else:
                bad = text.startswith(
                    ("import pickle", "from pickle", "import dill", "import joblib", "import marshal")
                )
            if bad:
                found.append((file.name, text))
    assert not found
