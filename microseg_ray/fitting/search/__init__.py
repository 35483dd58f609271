"""Searches over training settings: trials and how their settings are merged. Ray Tune runs them in `on_ray`."""
