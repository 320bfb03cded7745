"""Measuring what the library saves, beside plain PyTorch, in one run: for `fastinpaint bench` and ``benchmarks/``."""
