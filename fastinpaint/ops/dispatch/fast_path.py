"""What every registered operator of the library shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch._C import (
    _are_functorch_transforms_active,
    _get_tracing_state,
    _is_torch_function_mode_enabled,
    _len_torch_dispatch_stack,
)
from torch.library import Library, register_fake

from fastinpaint.ops.layout import memory_format

TAGS = (torch.Tag.pt2_compliant_tag,)
ORDINARY = frozenset((Tensor, torch.nn.Parameter, type(None)))
AS_IT_IS = nullcontext()


def register(library: Library, name: str, run: Callable[..., Any], fake: Callable[..., Any]) -> None:
    """Give a defined operator its body, and what computes its results' shapes.

    torch looks up the file that registers. In one place for all operators, it searches the loaded modules once.
    """
    library.impl(name, run, "CompositeExplicitAutograd")
    register_fake(f"fastinpaint::{name}", fake, lib=library)


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for the device. The meta device has none."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def no_autocast(device: torch.device) -> AbstractContextManager:
    """Inside an operator every tensor has its final dtype; autocast must not change it again."""
    if autocasts(device):
        return torch.autocast(device.type, enabled=False)
    return AS_IT_IS


def can_bypass_dispatcher(*tensors: Tensor | None) -> bool:
    """Whether nothing observes calls of registered operators. Then an operator's body may be called directly.

    torch's dispatcher costs as much as the whole arithmetic of a small layer. It is needed where something observes
    operators: a compiler or tracer, a mode, functorch, the profiler, or a tensor's own class.
    """
    if torch.compiler.is_compiling():
        return False
    return (
        not _len_torch_dispatch_stack()
        and not _is_torch_function_mode_enabled()
        and not _are_functorch_transforms_active()
        and _get_tracing_state() is None
        and not torch.autograd._profiler_enabled()
        and ORDINARY.issuperset(map(type, tensors))
    )


def applied(node: type[torch.autograd.Function]) -> Callable[..., Any]:
    """``node.apply`` without what it does for functorch alone, argument by argument, in Python.

    It is returned, not called here, so that this module adds no frame to the call stack.
    """
    if torch.compiler.is_dynamo_compiling() or torch._C._are_functorch_transforms_active():
        return node.apply
    return super(torch.autograd.Function, node).apply  # type: ignore[misc]


def below_autograd(device: torch.device) -> AbstractContextManager:
    """A context for an operator's body that is called directly: autograd and autocast ignore what it calls."""
    guard = torch._C._AutoDispatchBelowADInplaceOrView()
    kind = device.type
    if kind == "meta" or not torch.is_autocast_enabled(kind):
        return guard
    both = ExitStack()
    both.enter_context(torch.autocast(device.type, enabled=False))
    both.enter_context(guard)
    return both


def tf32_convolutions() -> bool:
    """Whether float32 convolutions may round their factors to tf32.

    True where ``torch.backends.cudnn.allow_tf32`` is, unless ``torch.backends.cudnn.conv.fp32_precision`` (or one of
    those above it) was set and says otherwise. The older flag alone raises where the newer ones disagree with it.
    """
    # what ``torch.backends.cudnn.conv.fp32_precision`` reads, by way of two objects of Python
    return torch._C._get_fp32_precision_getter("cuda", "conv") == "tf32"


def dense(like: Tensor) -> Tensor:
    """An empty tensor of that shape and dtype, dense in channels-last."""
    return torch.empty_like(like, memory_format=memory_format(like.dim()))


def empty_if_none(tensor: Tensor | None, like: Tensor) -> Tensor:
    """Operators return tensors only: an empty vector stands for None."""
    return like.new_empty(0) if tensor is None else tensor


def apart(tensors: Sequence[Tensor | None], given: Tensor) -> list[Tensor | None]:
    """The tensors, cloned where one shares memory with another or with `given`."""
    taken, result = {given.untyped_storage()._cdata}, []
    for tensor in tensors:
        if tensor is not None:
            storage = tensor.untyped_storage()._cdata
            if storage in taken:
                tensor = tensor.clone()
                storage = tensor.untyped_storage()._cdata
            taken.add(storage)
        result.append(tensor)
    return result


def each_once(tensors: list[Tensor | None]) -> list[Tensor | None]:
    """The tensors. A compiler takes none twice, so under it a repeated tensor is replaced by a view."""
    if not torch.compiler.is_dynamo_compiling():
        return tensors
    found: list[Tensor | None] = []
    for tensor in tensors:
        again = tensor is not None and any(tensor is other for other in found)
        found.append(tensor.view_as(tensor) if again and tensor is not None else tensor)
    return found


def none_if_empty(tensor: Tensor) -> Tensor | None:
    """The inverse of `empty_if_none`."""
    return None if tensor.dim() == 1 and tensor.shape[0] == 0 else tensor


def autocast(tensor: Tensor) -> Tensor:
    """The tensor as torch's convolutions see it under autocast."""
    return tensor.to(autocast_dtype(tensor))


def autocast_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype that torch's convolutions see under autocast: its own, unless the tensor is float64."""
    if autocasts(tensor.device) and tensor.dtype in (torch.float32, torch.bfloat16, torch.float16):
        return torch.get_autocast_dtype(tensor.device.type)
    return tensor.dtype
