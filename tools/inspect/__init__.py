"""Reads what the compilers made of the kernels: machine code, registers, shared memory. No GPU is needed."""
