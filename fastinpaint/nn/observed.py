"""What observes a layer's call: hooks, modes, tracers, compilers. An unobserved call takes the layer's short way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._C import (
    _are_functorch_transforms_active,
    _get_tracing_state,
    _is_torch_function_mode_enabled,
    _len_torch_dispatch_stack,
)
from torch.autograd import forward_ad
from torch.nn.modules import module as torch_module
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

from fastinpaint.nn.region import inside
from fastinpaint.ops.dispatch.fast_path import ORDINARY


def hooked(module: nn.Module, own: int = 0) -> bool:
    """Whether hooks other than the library's, and than those that compute a weight, see the module's maps."""
    count = len(module._forward_hooks) + len(module._forward_pre_hooks)
    if count > own and module._forward_pre_hooks:
        count -= sum(map(computes_weight, module._forward_pre_hooks.values()))
    return bool(
        count > own
        or module._backward_hooks
        or module._backward_pre_hooks
        or torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
    )


def computes_weight(hook: Any) -> bool:
    """Whether a forward pre-hook computes a weight: `torch.nn.utils.weight_norm`, ``spectral_norm``, ``prune``."""
    return (getattr(hook, "__module__", "") or "").startswith("torch.nn.utils.")


def unobserved(module: Any) -> bool:
    """Whether nothing observes a fused layer's call, and other layers of its model read the result."""
    return nothing_observes() and not own_observer(module) and (not module._fastinpaint_accelerated or inside())


def own_observer(module: Any) -> Any:
    """What observes this module alone; falsy without."""
    own = module.__dict__
    return (
        own["_forward_hooks"]
        or own["_forward_pre_hooks"]
        or own["_backward_hooks"]
        or own["_backward_pre_hooks"]
        or "forward" in own
        or module._compiled_call_impl is not None
        or module._fastinpaint_plain
    )


def nothing_observes() -> bool:
    """Whether nothing observes calls of modules and of torch's functions."""
    return not (
        torch.compiler.is_compiling()
        or torch_module._global_forward_hooks
        or torch_module._global_forward_pre_hooks
        or torch_module._global_backward_hooks
        or torch_module._global_backward_pre_hooks
        or _len_torch_dispatch_stack()
        or _is_torch_function_mode_enabled()
        or _are_functorch_transforms_active()
        or _get_tracing_state() is not None
        or torch.autograd._profiler_enabled()
        or forward_ad._current_level >= 0
    )


def torch_must_run(input: Any) -> bool:
    """Whether the fused operators cannot run: under functorch, forward-mode differentiation and torch's tracers."""
    if not isinstance(input, Tensor) and isinstance(input, torch.fx.Proxy):
        raise RuntimeError(
            "fastinpaint: torch.fx, and what is built on it (feature extraction, fusion, quantisation), takes the "
            "plain model: call fastinpaint.restore(model) first, and accelerate what it returns."
        )
    return (
        not isinstance(input, Tensor)
        or not (hasattr(input, "_parts") or is_ordinary(input))
        or (_len_torch_dispatch_stack() > 0 and flops_are_counted())
        or _are_functorch_transforms_active()
        or forward_ad._current_level >= 0
        or _get_tracing_state() is not None
    )


def is_ordinary(tensor: Tensor) -> bool:
    """Whether a tensor's class computes what torch's does. Another class may give any function another meaning."""
    if torch.compiler.is_compiling():
        return True
    kind = type(tensor)
    return kind in ORDINARY or kind.__module__ == "torch._subclasses.fake_tensor"


def flops_are_counted() -> bool:
    """Whether torch's FLOP counter is active. It counts torch's own convolutions only."""
    # by its name: importing it would import Triton
    return any(type(mode).__module__ == "torch.utils.flop_counter" for mode in _get_current_dispatch_mode_stack())


def changes_input(func: Callable[..., Any], kwargs: dict[str, Any]) -> bool:
    """Whether a torch function changes its first argument. A compiler cannot read its name."""
    if kwargs.get("inplace") or torch.compiler.is_compiling():
        return bool(kwargs.get("inplace"))
    name = getattr(func, "__name__", "")
    return name.endswith("_") and not name.endswith("__")
