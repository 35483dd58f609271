"""Figures: overlays that decode to their mask, panels with legend and scale bar, plots with the same bytes again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from microseg_ray.errors import InputError
from microseg_ray.figures import Pane, compose_panel, plot_confusion, plot_training, tinted
from microseg_ray.figures.pictures import class_palette
from microseg_ray.settings import ClassSpec
from tests.tints import decode_tint

MUDROCK = tuple(
    ClassSpec(name=name, color=color) for name, color in (("clay", "#000000"), ("silt", "#800000"), ("pore", "#008000"))
)


@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.35, 0.5, 1.0]), st.integers(1, 8))
def test_a_tint_gives_its_mask_back(seed, alpha, classes):
    """Whatever the micrograph's grays, in the default colours of up to 8 classes."""
    generator = np.random.default_rng(seed)
    palette = class_palette(tuple(ClassSpec(name=str(index)) for index in range(classes)))
    gray = generator.integers(0, 256, (6, 7, 3)).astype(np.uint8)
    mask = generator.choice(np.array([*range(classes), 255], np.uint8), (6, 7))
    colored = tinted(gray, mask, palette, alpha)
    np.testing.assert_array_equal(decode_tint(colored, gray, palette, alpha), mask)
    expected = np.rint(gray * (1 - alpha) + palette[mask].astype(float) * alpha)
    np.testing.assert_array_equal(colored, expected.astype(np.uint8))


def test_a_tint_needs_an_opacity_and_a_mask_of_its_micrograph():
    palette = class_palette(MUDROCK)
    gray, mask = np.full((2, 3, 3), 90, np.uint8), np.array([[0, 1, 2], [2, 1, 0]], np.uint8)
    with pytest.raises(ValueError, match="alpha"):
        tinted(gray, mask, palette, 0)
    with pytest.raises(ValueError, match="gray"):
        tinted(gray[:1], mask, palette)


def test_a_panel_holds_its_panes_and_a_scale_bar_only_where_the_pixel_size_is_known():
    panes = [Pane("image", np.full((60, 200, 3), 90, np.uint8)), Pane("label", np.full((60, 200, 3), 30, np.uint8))]
    plain, measured = compose_panel(panes, MUDROCK), compose_panel(panes, MUDROCK, pixel_size_um=0.5)
    pixels = [np.asarray(image) for image in (plain, measured)]
    top = 20
    for image in pixels:
        assert (image[top : top + 20, 8:208] == 90).all()
        assert (image[top : top + 60, 216:416] == 30).all()
    assert (pixels[0][top : top + 60, 8:208] == 90).all()
    # 20 um of 0.5 um a pixel: a white line of 40 px.
    rows = (pixels[1][top : top + 60, 8:208] == 255).all(axis=2).sum(axis=1)
    assert rows.max() == 40
    tall = compose_panel(panes, MUDROCK, caption="a.png")
    assert tall.height > plain.height
    many = compose_panel(panes, tuple(ClassSpec(name=f"a class with a long name {n}") for n in range(40)))
    assert many.width == plain.width
    with pytest.raises(ValueError, match="one size"):
        compose_panel([panes[0], Pane("label", np.zeros((3, 4, 3), np.uint8))], MUDROCK)


def test_curves_of_a_fit(tmp_path):
    text = "epoch,loss,val_loss,val_mean_iou,class,learning_rate,best\n1,0.9,1.0,0.3,a,1,True\n2,0.5,,0.5,b,2,True\n"
    (tmp_path / "metrics.csv").write_text(text)
    plot_training(tmp_path / "a.png", tmp_path / "metrics.csv")
    plot_training(tmp_path / "b.png", tmp_path / "metrics.csv")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert image.width > 800
    (tmp_path / "metrics.csv").write_text(text.replace("0.5,,0.5", "0.4,,0.6"))
    plot_training(tmp_path / "c.png", tmp_path / "metrics.csv")
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "c.png").read_bytes()
    (tmp_path / "metrics.csv").write_text("epoch,loss\n")
    with pytest.raises(InputError, match="no epoch"):
        plot_training(tmp_path / "d.png", tmp_path / "metrics.csv")
    with pytest.raises(InputError, match="cannot be read"):
        plot_training(tmp_path / "d.png", tmp_path / "none.csv")


def test_a_confusion_matrix_with_an_empty_class_and_many_classes(tmp_path):
    plot_confusion(tmp_path / "a.png", np.array([[3, 1], [0, 0]]), ["clay", "pore"])
    plot_confusion(tmp_path / "b.png", np.eye(20, dtype=np.int64), [str(index) for index in range(20)])
    for name in ("a", "b"):
        with Image.open(tmp_path / f"{name}.png") as image:
            assert len(image.convert("L").getcolors(256) or []) > 3


def test_the_font_of_panels_has_what_scale_bars_say():
    from microseg_ray.figures.panels import _font

    font = _font()
    missing = bytes(font.getmask("\uffff"))
    assert all(bytes(font.getmask(sign)) != missing for sign in "µmn")
