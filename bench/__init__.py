"""Benchmarks: floors and our own, in one run on one machine, as ratios of medians."""
