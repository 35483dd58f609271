"""A model is looked at without memory for its weights, and without torch's compiler."""

from __future__ import annotations

import subprocess
import sys

import pytest

from microseg_ray.models import ARCHITECTURES, build_model
from microseg_ray.models.skeleton import model_skeleton


@pytest.mark.parametrize("name", ["unet", "resunet", "vgg16_unet", "resnet_unet", "defectsegnet"])
def test_a_skeleton_has_the_shapes_of_the_model(name):
    assert name in ARCHITECTURES
    expected = {key: value.shape for key, value in build_model(name, 1, 3, {}).state_dict().items()}
    assert {key: value.shape for key, value in model_skeleton(name, 1, 3, {}).state_dict().items()} == expected


def test_torchs_compiler_stays_unloaded():
    code = (
        "import sys\n"
        "from microseg_ray.models.skeleton import model_skeleton\n"
        "for name in ('unet', 'resunet', 'vgg16_unet', 'resnet_unet', 'defectsegnet'):\n"
        "    model_skeleton(name, 1, 2, {})\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
