"""Benchmarks: each prints its table and writes it, with machine and versions, where told."""
