"""Benchmarks: they print what the README and the docs quote."""
