"""Intensities as a model sees them: exact, image by image, with CLAHE where asked for."""

import numpy as np
import pytest
import torch

from microseg_ray.models.scaling import model_input, scale_intensities


def test_scaling_each_image_by_its_own_limits_equals_one_at_a_time():
    images = torch.arange(8, dtype=torch.uint8).reshape(2, 1, 2, 2)
    limits = torch.tensor([[0.0, 10.0], [1.0, 3.0]])
    both = scale_intensities(images, limits)
    assert both.dtype == torch.float32
    for index in range(2):
        low, high = limits[index].tolist()
        torch.testing.assert_close(both[index], scale_intensities(images[index : index + 1], (low, high))[0])
    assert images.dtype == torch.uint8
    for wrong in ((5.0, 5.0), torch.tensor([[0.0, 1.0], [2.0, 2.0]]), torch.zeros(3, 2)):
        with pytest.raises(ValueError, match="intensity limits"):
            scale_intensities(images, wrong)


def test_clahe_is_the_same_in_training_and_prediction_and_off_by_default():
    """Each tile by itself, on scaled and clipped intensities."""
    from skimage.exposure import equalize_adapthist

    tiles = torch.from_numpy(np.random.default_rng(0).integers(0, 200, (3, 2, 40, 56), np.uint8))
    limits = (20.0, 180.0)
    torch.testing.assert_close(model_input(tiles, limits), scale_intensities(tiles, limits), rtol=0, atol=0)
    found = model_input(tiles, torch.tensor([limits] * 3), clahe=0.03)
    assert found.dtype == torch.float32
    for place in np.ndindex(3, 2):
        plane = np.clip((tiles[place].numpy().astype(np.float32) - 20) / 160, 0, 1)
        expected = equalize_adapthist(plane, clip_limit=0.03)
        np.testing.assert_allclose(found[place].numpy(), expected, atol=1e-6)
    flat = model_input(torch.full((1, 1, 4, 4), 7, dtype=torch.uint8), (0.0, 255.0), clahe=1.0)
    assert torch.isfinite(flat).all()


def test_large_integers_are_scaled_exactly():
    """A narrow range of large numbers: float32 alone would give 0 and 1 only."""
    values = np.arange(4_000_000_000, 4_000_000_101, dtype=np.uint32).reshape(1, 1, 1, 101)
    limits = (4_000_000_000.0, 4_000_000_100.0)
    expected = (np.arange(101) / 100).astype(np.float32)
    each = torch.tensor([limits], dtype=torch.float64)
    for chosen in (limits, each):
        np.testing.assert_array_equal(model_input(torch.from_numpy(values), chosen).numpy().ravel(), expected)


def test_signed_integers_are_scaled():
    values = torch.tensor([-32768, 0, 32767], dtype=torch.int16).reshape(1, 1, 1, 3)
    scaled = model_input(values, (-32768.0, 32767.0)).numpy().ravel()
    np.testing.assert_allclose(scaled, [0, 32768 / 65535, 1], rtol=1e-6)
