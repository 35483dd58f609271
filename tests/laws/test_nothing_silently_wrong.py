"""Law 5: nothing is silently wrong. One case each; the mechanisms have their own tests.

* what training and use must share: tests/runs/test_agreement.py, tests/runs/test_calibration.py, tests/runs/test_identity.py
* pixels of no class: tests/evaluation/test_predicting.py
* inputs that cannot be used: tests/faults/test_bad_input.py, tests/sources/test_bad_files.py
* unknown keys of a config: tests/settings
"""

from __future__ import annotations

import numpy as np
from PIL import Image


def test_a_bad_file_is_named_and_the_rest_goes_on(checkpoint, tmp_path, microseg):
    (tmp_path / "archive").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).save(
        tmp_path / "archive" / "good.png"
    )
    (tmp_path / "archive" / "bad.png").write_bytes(b"not a picture")
    ran = microseg(
        *("segment", "--archive", tmp_path / "archive", "--checkpoint", checkpoint, "--output", tmp_path / "run"),
        *("--workers", 0, "--shard", 64),
    )
    assert ran.code == 3
    assert "bad.png" in (tmp_path / "run" / "failures.csv").read_text()
    areas = (tmp_path / "run" / "areas.csv").read_text()
    assert "good.png" in areas
    assert "bad.png" not in areas


def test_an_unknown_key_is_an_error_that_names_it(tmp_path, microseg):
    ran = microseg("segment", "--archive", tmp_path, "--no_such_key", 1)
    assert ran.code == 2
    assert "no_such_key" in ran.err + ran.out
