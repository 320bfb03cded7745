"""Checks addresses and races between programs by shadow memory, and poisons masked lanes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

NOBODY, SEVERAL = -1, -2


class OutOfBounds(AssertionError):
    """An unmasked lane accesses memory outside every tensor argument, or at a misaligned address."""


class Race(AssertionError):
    """Two programs of one launch access the same address, and at least one of them stores."""


class Shadow:
    """The last reader and writer of each item in the arguments of the current launch.

    Attributes:
        program: linear index of the running program.
    """

    def __init__(self, tensors: Iterable[torch.Tensor], races: bool) -> None:
        spans: list[list[int]] = []
        for tensor in sorted((t for t in tensors if t.numel()), key=torch.Tensor.data_ptr):
            size, low = tensor.element_size(), tensor.data_ptr()
            items = 1 + sum((n - 1) * abs(s) for n, s in zip(tensor.shape, tensor.stride(), strict=True))
            if spans and low < spans[-1][1]:
                spans[-1][1] = max(spans[-1][1], low + items * size)
            else:
                spans.append([low, low + items * size, size])
        self.low, self.high, self.size = (np.array([s[i] for s in spans], dtype=np.int64) for i in range(3))
        self.races, self.program = races, 0
        self.first = np.concatenate([[0], np.cumsum(self.high - self.low)]).astype(np.int64)
        self.reader, self.writer = (np.full(self.first[-1] if races else 0, NOBODY, dtype=np.int32) for _ in range(2))

    def locate(self, pointers: np.ndarray, mask: np.ndarray, nbytes: int, what: str) -> np.ndarray:
        """The shadow index of every unmasked lane. Raises if a lane lies outside all arguments."""
        addresses = pointers.astype(np.int64)[mask] if pointers.shape == mask.shape else None
        if addresses is None:
            addresses = np.broadcast_to(pointers, mask.shape)[mask].astype(np.int64)
        if addresses.size == 0:
            return addresses
        if not self.low.size:
            raise OutOfBounds(f"{what} of {nbytes} bytes, but no argument holds any data")
        span = np.maximum(np.searchsorted(self.low, addresses, side="right") - 1, 0)
        offset = addresses - self.low[span]
        bad = (offset < 0) | (addresses + nbytes > self.high[span]) | (offset % nbytes != 0)
        if bad.any():
            i = int(np.argmax(bad))
            length = int(self.high[span[i]] - self.low[span[i]])
            raise OutOfBounds(
                f"{what} of {nbytes} bytes by program {self.program}, {offset[i]:+d} bytes from the start of an "
                f"argument of {length} bytes ({int(bad.sum())} lanes)"
            )
        return self.first[span] + offset

    def load(self, index: np.ndarray) -> None:
        """Record a load. Raises if another program has stored there."""
        if not self.races:
            return
        self.refuse(index, self.writer, "loads what program {} stores")
        seen = self.reader[index]
        self.reader[index] = np.where((seen == NOBODY) | (seen == self.program), self.program, SEVERAL)

    def store(self, index: np.ndarray) -> None:
        """Record a store. Raises if another program has loaded or stored there."""
        if not self.races:
            return
        self.refuse(index, self.writer, "stores what program {} stores")
        self.refuse(index, self.reader, "stores what program {} loads")
        self.writer[index] = self.program

    def refuse(self, index: np.ndarray, table: np.ndarray, what: str) -> None:
        others = table[index]
        bad = (others != NOBODY) & (others != self.program)
        if bad.any():
            other = int(others[np.argmax(bad)])
            name = "another" if other == SEVERAL else str(other)
            raise Race(f"program {self.program} {what.format(name)} ({int(bad.sum())} lanes)")


class Memory:
    """The current launch's shadow, if any, and whether masked lanes are poisoned."""

    shadow: Shadow | None = None
    poison = True


def item_bytes(pointers: TensorHandle) -> int:
    return max(1, pointers.get_element_ty().primitive_bitwidth // 8)


def full_mask(pointers: TensorHandle, mask: TensorHandle) -> np.ndarray:
    return np.broadcast_to(mask.data, np.broadcast_shapes(mask.data.shape, pointers.data.shape))


def poison_like(pointers: TensorHandle) -> TensorHandle:
    """NaN or a large integer, for masked lanes, whose value is undefined on a GPU."""
    dtype = pointers.get_element_ty()
    numpy_dtype = interpreter._get_np_dtype(dtype)
    if dtype == tl.bfloat16:
        value = np.array(0x7FC0, numpy_dtype)
    elif np.issubdtype(numpy_dtype, np.floating):
        value = np.array(np.nan, numpy_dtype)
    else:
        value = np.array(0x5A if numpy_dtype.itemsize == 1 else 0x5A5A).astype(numpy_dtype)
    return TensorHandle(np.full(pointers.data.shape, value, numpy_dtype), dtype)


def masked_load(upstream: Callable) -> Callable:
    def wrapped(self, pointers, mask, other, *rest, **options):
        if Memory.shadow is not None:
            lanes = full_mask(pointers, mask)
            Memory.shadow.load(Memory.shadow.locate(pointers.data, lanes, item_bytes(pointers), "load"))
        if other is None and Memory.poison:
            other = poison_like(pointers)
        return upstream(self, pointers, mask, other, *rest, **options)

    return wrapped


def masked_store(upstream: Callable) -> Callable:
    def wrapped(self, pointers, value, mask, *rest, **options):
        if Memory.shadow is not None:
            lanes = full_mask(pointers, mask)
            Memory.shadow.store(Memory.shadow.locate(pointers.data, lanes, item_bytes(pointers), "store"))
        return upstream(self, pointers, value, mask, *rest, **options)

    return wrapped


def atomic_rmw(upstream: Callable) -> Callable:
    def wrapped(self, op, pointers, value, mask, *rest):
        if Memory.shadow is not None:
            Memory.shadow.locate(pointers.data, full_mask(pointers, mask), item_bytes(pointers), "atomic")
        if value.dtype.scalar == tl.bfloat16:
            raise NotImplementedError("interpreter: atomics on bfloat16 are not modelled; accumulate in float32.")
        return upstream(self, op, pointers, value, mask, *rest)

    return wrapped


def install() -> None:
    """Wrap every load, store and atomic in the checks."""
    InterpreterBuilder.create_masked_load = masked_load(InterpreterBuilder.create_masked_load)
    InterpreterBuilder.create_masked_store = masked_store(InterpreterBuilder.create_masked_store)
    InterpreterBuilder.create_atomic_rmw = atomic_rmw(InterpreterBuilder.create_atomic_rmw)
