"""Which backend runs an op: an explicit argument beats ``FASTINPAINT_BACKEND`` beats auto; no fallback is silent.

Auto takes the first backend of the device's row below whose `why_not` is None. A backend that is asked for by name and
cannot run raises with the sentence that `why_not` gives.
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

from fastinpaint import _native

BACKENDS = ("reference", "cpu", "cuda", "triton", "library")
OPS = ("activation", "conv_block", "masked_l1")
VARIABLE = "FASTINPAINT_BACKEND"

# In order of preference, with the reason.
AUTO: dict[str, tuple[tuple[str, str], ...]] = {
    "cpu": (
        ("cpu", "own vector kernels around the fastest convolutions of oneDNN"),
        ("reference", "plain torch takes every dtype"),
    ),
    "cuda": (
        ("cuda", "prologue and epilogue fused into the convolution"),
        ("triton", "fused as well, and needs no nvcc"),
        ("library", "cuDNN's convolutions with fused elementwise kernels around them"),
        ("reference", "plain torch takes every dtype"),
    ),
}
ELSEWHERE = (("reference", "plain torch takes every device"),)

logger = logging.getLogger(__name__)


def requested(backend: str | None) -> str:
    """The name that was asked for: the argument, else ``FASTINPAINT_BACKEND``, else ``auto``.

    Raises:
        ValueError: the name is unknown.
    """
    name = backend if backend not in (None, "auto") else os.environ.get(VARIABLE) or "auto"
    if name not in (*BACKENDS, "auto"):
        raise ValueError(f"backend must be one of {', '.join(('auto', *BACKENDS))}, got {name!r}.")
    return name


@functools.cache
def find(op: str, name: str) -> ModuleType | str:
    """The module of one backend of one op, imported on first use, or why there is none, in one sentence."""
    if name == "library" and op != "conv_block":  # only convolutions are the library's; what surrounds them is ours
        return find(op, "cuda" if _native.why_not("cuda") is None else "triton")
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
    refusals: list[str] = []
    for name, because in AUTO.get(device.type, ELSEWHERE):
        reason = why_not(op, name, *arguments)
        if reason is None:
            logger.debug("%s: %s (%s)%s", op, name, because, "".join(refusals))
            return _module(op, name)
        refusals.append(f"; not {name}: {reason}")
    raise NotImplementedError(f"{op}: no backend can run this{''.join(refusals)}")


def _module(op: str, name: str) -> ModuleType:
    found = find(op, name)
    assert isinstance(found, ModuleType)
    return found
