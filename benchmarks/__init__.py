"""Measurements of rumpx and of its rivals, side by side: `python -m benchmarks --help`."""
