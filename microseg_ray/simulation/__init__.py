"""Simulated micrographs with exact masks: known ground truth for the demo, the tests and the benchmarks."""

from microseg_ray.simulation.archive import simulate_archive
from microseg_ray.simulation.micrograph import PRESETS, Simulated, simulate_micrograph

__all__ = ["PRESETS", "Simulated", "simulate_archive", "simulate_micrograph"]
