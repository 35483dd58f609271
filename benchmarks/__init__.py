"""Benchmarks of microseg_ray: `python -m benchmarks NAME`. They print tables and write them as Markdown and JSON."""
