"""`python -m benchmarks.soak_material FOLDER`: archive and model of the soak, made in a process of its own: it computes."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.material import make_checkpoint
from microseg_ray.simulation import simulate_archive

MICROGRAPHS = 3
SIZE = (500, 640)

if __name__ == "__main__":
    simulate_archive(Path(sys.argv[1], "archive"), MICROGRAPHS, SIZE, seed=5)
    print(make_checkpoint(Path(sys.argv[1], "model"), "unet", {"width": 4, "depth": 1}, ("matrix", "pore", "crack")))
