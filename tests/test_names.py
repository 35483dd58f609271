"""A name is a path, a key and a text at once."""

import io
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from microseg_ray import names
from microseg_ray.catalog import build_catalog
from microseg_ray.settings import DataSettings, TileSettings
from microseg_ray.tiles.make import tile


@given(st.binary(min_size=1, max_size=12))
def test_any_bytes_have_a_text_of_one_line(raw):
    shown = names.text(raw.decode("utf-8", "surrogateescape"))
    assert shown.encode("utf-8")
    assert shown.isprintable() or " " in shown or not shown.isascii()
    assert not {"\n", "\r", "\x1b"} & set(shown)


@given(st.text())
def test_a_key_is_the_same_for_both_forms(name):
    assert names.key(unicodedata.normalize("NFD", name)) == names.key(unicodedata.normalize("NFC", name))


def test_a_console_that_lacks_a_letter_prints_its_escape():
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="latin-1")
    names.never_raise(stream)
    stream.write("\u03b1-Fe")
    stream.flush()
    assert raw.getvalue() == b"\\u03b1-Fe"


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_composed_and_decomposed_names_pair(forms, tmp_path):
    for part, form in zip(("images", "masks"), forms, strict=True):
        path = tmp_path / part / unicodedata.normalize(form, "caf\u00e9/\u00e9.png")
        path.parent.mkdir(parents=True)
        Image.new("L", (32, 32)).save(path)
    rows, failures, *_ = build_catalog(DataSettings(images=str(tmp_path / "images"), masks=str(tmp_path / "masks")))
    assert not failures
    assert rows[0].mask is not None


def test_an_output_called_tiles_zarr_is_an_output_like_any_other(tmp_path):
    for part, value in (("images", 9), ("masks", 1)):
        (tmp_path / part).mkdir()
        Image.new("L", (32, 32), value).save(tmp_path / part / "a.png")
    given = {"images": str(tmp_path / "images"), "masks": str(tmp_path / "masks"), "classes": ["a", "b"], "tile": 32}
    settings = TileSettings(**given, overlap=0, workers=0, output=str(tmp_path / "x" / "tiles.zarr"))
    assert tile(settings).written == 1
    assert tile(settings).written == 0
