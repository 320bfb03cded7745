"""Shared by tests and benchmarks: the accuracy rule, random cases and Triton's checked interpreter."""
