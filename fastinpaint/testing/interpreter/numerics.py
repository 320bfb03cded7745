"""bfloat16 and tf32 arithmetic as in hardware, in numpy. The interpreter stores bfloat16 as uint16 bit patterns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import triton.language as tl
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

# Every builder method that computes on floating-point values. Methods that only move them are correct already.
ARITHMETIC = (
    "fadd fsub fmul fdiv frem fneg fma minimumf maximumf minnumf maxnumf clampf precise_divf approx_divf "
    "cos exp exp2 floor ceil log log2 precise_sqrt sqrt sin erf rsqrt "
    "fcmpOLT fcmpOGT fcmpOLE fcmpOGE fcmpOEQ fcmpONE fcmpULT fcmpUGT fcmpULE fcmpUGE fcmpUEQ fcmpUNE"
)


def widen(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bit patterns as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(values: np.ndarray) -> np.ndarray:
    """float32 as bfloat16 bit patterns, to nearest even; NaN stays NaN."""
    values = np.array(values, dtype=np.float32)  # a copy, because broadcast views share their bits
    bits = values.view(np.uint32)
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def round_to_tf32(values: np.ndarray) -> np.ndarray:
    """float32 with 10 bits of mantissa, to nearest even."""
    bits = np.array(values, dtype=np.float32).view(np.uint32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & np.uint32(0xFFFFE000)).view(np.float32)


def is_bf16(value: Any) -> bool:
    return isinstance(value, TensorHandle) and value.dtype.scalar == tl.bfloat16


def as_float32(value: Any) -> Any:
    """Convert a bfloat16 handle to float32. Other values are unchanged."""
    return TensorHandle(widen(value.data), tl.float32) if is_bf16(value) else value


def as_bf16(handle: TensorHandle) -> TensorHandle:
    return TensorHandle(narrow(handle.data), tl.bfloat16)


def through_float32(method: Callable) -> Callable:
    """Wrap a builder method: bfloat16 is computed in float32 and rounded once. Comparisons stay booleans."""

    def wrapped(self, *args):
        if not any(map(is_bf16, args)):
            return method(self, *args)
        result = method(self, *map(as_float32, args))
        return as_bf16(result) if result.dtype.scalar == tl.float32 else result

    return wrapped


def cast(upstream: Callable) -> Callable:
    """Casts to and from bfloat16 round to nearest. Other casts are upstream's."""

    def wrapped(self, src, dst_type, *rest):
        source, target = src.dtype.scalar, dst_type.scalar
        if tl.bfloat16 not in (source, target) or source == target:
            return upstream(self, src, dst_type, *rest)
        if source == tl.bfloat16:
            return upstream(self, as_float32(src), dst_type, *rest) if target != tl.float32 else as_float32(src)
        return as_bf16(src if source == tl.float32 else upstream(self, src, tl.float32, *rest))

    return wrapped


def dot(upstream: Callable) -> Callable:
    """Products of bfloat16 are exact in float32. Products of float32 use tf32 unless ieee is requested."""

    def wrapped(self, a, b, d, precision, *rest):
        if is_bf16(a):
            a, b = as_float32(a), as_float32(b)
        elif a.dtype.scalar == tl.float32 and str(precision).endswith("TF32"):
            a, b = (TensorHandle(round_to_tf32(x.data), tl.float32) for x in (a, b))
        return upstream(self, a, b, d, precision, *rest)

    return wrapped


def pairwise_sum(self: Any, value: tl.tensor) -> tl.tensor:
    """A sum as a tree of additions, as on a GPU. Numpy sums an outer axis one by one."""
    data = value.handle.data
    if self.axis is not None:
        data = np.ascontiguousarray(np.moveaxis(data, self.axis, -1))
    total = data.sum(axis=-1 if self.axis is not None else None, dtype=data.dtype)
    if self.keep_dims:
        total = total.reshape([1] * data.ndim) if self.axis is None else np.expand_dims(total, self.axis)
    return self.to_tensor(total, value.dtype)


def narrowed(op: Any, result: tl.tensor) -> tl.tensor:
    """Round a reduction's float32 result to bfloat16. A scalar stays a scalar."""
    bits = narrow(result.handle.data)
    return op.to_tensor(bits if result.shape else bits.item(), tl.bfloat16)


def reduce(upstream: Callable) -> Callable:
    """Reductions and scans of bfloat16 run in float32 and round once at the end."""

    def wrapped(self, inputs):
        if not any(is_bf16(x.handle) for x in inputs):
            return upstream(self, inputs)
        wide = [self.to_tensor(widen(x.handle.data), tl.float32) if is_bf16(x.handle) else x for x in inputs]
        result = upstream(self, tuple(wide))
        results = result if isinstance(result, (list, tuple)) else [result]
        return [narrowed(self, r) if r.dtype.scalar == tl.float32 else r for r in results]

    return wrapped


def install() -> None:
    """Replace the interpreter's methods by these."""
    for name in (f"create_{op}" for op in ARITHMETIC.split()):
        if hasattr(InterpreterBuilder, name):
            setattr(InterpreterBuilder, name, through_float32(getattr(InterpreterBuilder, name)))
    InterpreterBuilder.cast_impl = cast(InterpreterBuilder.cast_impl)
    InterpreterBuilder.create_fp_to_fp = cast(InterpreterBuilder.create_fp_to_fp)
    InterpreterBuilder.create_dot = dot(InterpreterBuilder.create_dot)
    interpreter.ReduceOps.sum = pairwise_sum
    for kind in (interpreter.ReduceOps, interpreter.ScanOps):
        kind.apply_impl = reduce(kind.apply_impl)
