"""Measures the library beside plain PyTorch in one run, for `fastinpaint bench` and ``benchmarks/``."""
