"""Runs made from a run: thresholds and post-processing."""
