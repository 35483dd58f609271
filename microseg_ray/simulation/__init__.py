"""Simulated micrographs with exact masks: known ground truth for the demo, the recipes, the tests and the benchmarks."""

from microseg_ray.simulation.archive import simulate_archive
from microseg_ray.simulation.micrograph import PRESETS, Bands, Simulated, simulate_bands, simulate_micrograph

__all__ = ["PRESETS", "Bands", "Simulated", "simulate_archive", "simulate_bands", "simulate_micrograph"]
