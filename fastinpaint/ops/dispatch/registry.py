"""Which backend runs an op: an explicit argument beats ``FASTINPAINT_BACKEND`` beats auto; no fallback is silent.

For a convolution of a shape that ``fastinpaint tune`` has measured on this device, auto takes the backend that was
fastest; else, and with ``FASTINPAINT_TUNE=0`` always, the first of the device's row below whose `why_not` is None. A
backend that is asked for by name and cannot run raises with the sentence that `why_not` gives.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import os
from types import ModuleType
from typing import Any

import torch

from fastinpaint import environment
from fastinpaint.errors import UserError
from fastinpaint.ops.dispatch import autotune, native, native_cuda, triton_support, tuning_cache

BACKENDS = ("reference", "cpu", "cuda", "triton", "library")
OPS = ("activation", "batch_norm", "conv_block")
VARIABLE = "FASTINPAINT_BACKEND"

# In order of preference, with the reason.
AUTO: dict[str, tuple[tuple[str, str], ...]] = {
    "cpu": (
        ("cpu", "own vector kernels around the fastest convolutions of oneDNN"),
        ("reference", "plain torch takes every dtype"),
    ),
    "cuda": (
        # own convolutions where a measurement on the device found them faster: no GPU has run them yet
        ("library", "cuDNN's convolutions with fused elementwise kernels around them"),
        ("cuda", "prologue and epilogue fused into the convolution"),
        ("triton", "fused as well, and needs no nvcc"),
        ("reference", "plain torch takes every dtype"),
    ),
}
ELSEWHERE = (("reference", "plain torch takes every device"),)

logger = logging.getLogger(__name__)
_watched = environment.watch(VARIABLE, tuning_cache.VARIABLE, native_cuda.HOPPER, triton_support.ACTIVATE_FIRST)


def requested(backend: str | None) -> str:
    """The name that was asked for: the argument, else ``FASTINPAINT_BACKEND``, else ``auto``.

    Raises:
        UserError: the name is unknown.
    """
    name = backend if backend not in (None, "auto") else os.environ.get(VARIABLE) or "auto"
    if name not in (*BACKENDS, "auto"):
        raise UserError(f"backend must be one of {', '.join(('auto', *BACKENDS))}, got {name!r}.")
    return name


def settings() -> tuple[Any, ...]:
    """What a choice depends on beside the call: variables of the environment, torch's deterministic algorithms, and
    what tests put in a GPU's place.
    """
    stand_ins = (native_cuda.emulated, triton_support.INTERPRETING)
    return (*_watched(), torch.are_deterministic_algorithms_enabled(), *stand_ins)


@functools.cache
def find(op: str, name: str) -> ModuleType | str:
    """The module of one backend of one op, imported on first use, or why there is none, in one sentence."""
    if name == "library" and op != "conv_block":  # only convolutions are the library's; what surrounds them is ours
        return find(op, "cuda" if native.why_not("cuda") is None else "triton")
    path = f"fastinpaint.ops.{op}.{name}"
    if importlib.util.find_spec(path) is None:
        return f"{op} has no {name} backend."
    try:
        return importlib.import_module(path)
    except ImportError as error:
        return f"{path} cannot be imported: {error}."


def why_not(op: str, name: str, *arguments: Any) -> str | None:
    """Why the backend cannot run the op on these arguments, in one sentence, or None where it can."""
    found = find(op, name)
    return found if isinstance(found, str) else found.why_not(*arguments)


def choose(op: str, backend: str | None, device: torch.device, *arguments: Any) -> ModuleType:
    """The module that runs the op.

    Args:
        op: one of `OPS`.
        backend: a name of `BACKENDS`, or None or "auto".
        device: where the tensors are.
        arguments: what the op's `why_not` takes.

    Raises:
        ValueError: the name is unknown.
        NotImplementedError: the backend was asked for by name and cannot run this; says why.
    """
    name = requested(backend)
    if name != "auto":
        reason = why_not(op, name, *arguments)
        if reason is not None:
            raise NotImplementedError(f"{op}: backend {name!r} cannot run this: {reason}")
        logger.debug("%s: %s, as asked for", op, name)
        return _module(op, name)
    row = AUTO.get(device.type, ELSEWHERE)
    if op == "conv_block" and (known := _measured(row, device, arguments)) is not None:
        logger.debug("%s: %s, measured as the fastest here", op, known)
        return _module(op, known)
    refusals: list[str] = []
    for name, because in row:
        reason = why_not(op, name, *arguments)
        if reason is None:
            logger.debug("%s: %s (%s)%s", op, name, because, "".join(refusals))
            return _module(op, name)
        refusals.append(f"; not {name}: {reason}")
    raise NotImplementedError(f"{op}: no backend can run this{''.join(refusals)}")


def _measured(row: tuple[tuple[str, str], ...], device: torch.device, arguments: tuple[Any, ...]) -> str | None:
    """The backend that was measured as fastest, measured now if asked for; None where the row decides."""
    mode = tuning_cache.mode()
    if mode == "0" or len(row) == 1:
        return None
    name = autotune.fastest(device, *arguments)
    if name is None and mode == "1" and autotune.can_measure(arguments[1]):
        able = {name: _module("conv_block", name) for name, _ in row if why_not("conv_block", name, *arguments) is None}
        name = autotune.measure(device, able, *arguments)
    can = name is not None and name in dict(row) and why_not("conv_block", name, *arguments) is None
    return name if can else None


def _module(op: str, name: str) -> ModuleType:
    found = find(op, name)
    assert isinstance(found, ModuleType)
    return found
