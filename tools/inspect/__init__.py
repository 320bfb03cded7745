"""Inspects compiled kernels without a GPU: machine code, registers, shared memory."""
