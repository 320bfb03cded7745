"""Fake CUDA tensors on the CPU, to rehearse code that only runs on a GPU.

A `StandIn` reports the device ``cuda:0`` and holds a CPU tensor that torch's operations run on. As on a GPU, mixing CPU
and device maps is rejected. So is reading a value while a graph is captured, or while
``torch.cuda.set_sync_debug_mode("error")`` forbids it. Its address is that of the held memory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

CPU, DEVICE = torch.device("cpu"), torch.device("cuda:0")
aten = torch.ops.aten
COPIES = {aten._to_copy.default, aten.copy_.default}
TAKE_CPU_INDICES = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
WAIT = {aten._local_scalar_dense.default, aten.nonzero.default, aten.equal.default, aten.is_nonzero.default}
OURS = torch._C.DispatchKey.CompositeExplicitAutograd
CONVOLUTIONS = {aten.convolution.default, aten.convolution_backward.default}


class Memory:
    """The memory held by fake tensors: by address, the number of holders and the bytes; and the peak."""

    held: dict[int, list[int]] = {}  # noqa: RUF012 - one device, one memory
    now = most = 0

    @classmethod
    def has(cls, address: int) -> bool:
        """Whether an address is in the fake device's memory."""
        return address in cls.held or any(
            start <= address < start + max(size, 1) for start, (_, size) in cls.held.items()
        )


class Hold:
    """One fake tensor's reference to its memory, released with the object."""

    def __init__(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.address = storage.data_ptr()
        if self.address not in Memory.held:
            Memory.held[self.address] = [0, storage.nbytes()]
            Memory.now += storage.nbytes()
            Memory.most = max(Memory.most, Memory.now)
        Memory.held[self.address][0] += 1

    def __del__(self) -> None:
        part = Memory.held[self.address]
        part[0] -= 1
        if part[0] == 0:
            Memory.now -= Memory.held.pop(self.address)[1]


class Waiting:
    """Whether waiting for the device raises now, and the error message."""

    refusal: str | None = None


class StandIn(Tensor):
    """A fake tensor on ``cuda:0`` with the values of `held`."""

    __module__ = "torch._subclasses.fake_tensor"  # layers take it for torch's own, as they do a fake tensor

    held: Tensor
    hold: Hold
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> StandIn:
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=DEVICE,
        )  # fmt: skip
        made.held, made.hold = held, Hold(held)
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return dispatch(func, args, kwargs or {})

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def __deepcopy__(self, memo: dict[int, Any]) -> StandIn:
        """Of a leaf, in memory of its own; a parameter's is a parameter."""
        copied = StandIn(self.held.clone()).requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied._is_param = True  # type: ignore[attr-defined]
        memo[id(self)] = copied
        return copied

    def tolist(self) -> Any:
        return self.cpu().tolist()

    @property
    def data(self) -> Tensor:
        return self.detach()

    @data.setter
    def data(self, other: StandIn) -> None:
        Tensor.data.__set__(self, other)  # type: ignore[attr-defined]
        self.held, self.hold = other.held, Hold(other.held)

    def __repr__(self) -> str:  # type: ignore[override]
        return f"StandIn({self.held!r})"


def dispatch(func: Any, args: Any, kwargs: Any) -> Any:
    """Run one of torch's operations on the held tensors if a GPU would run it."""
    if func.namespace == "fastinpaint":  # our own operators take the device's tensors themselves
        return func._op_dk(OURS, *args, **kwargs)
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    ours = {id(t.held): t for t in tensors if isinstance(t, StandIn)}
    device = kwargs.get("device")
    there = bool(ours) if device is None else torch.device(device).type == "cuda"
    if ours:
        _refuse(func, tensors, there, kwargs, args)
    args, kwargs = tree_map_only(StandIn, lambda t: t.held, (args, kwargs))
    options = {k: v for k, v in kwargs.items() if k != "pin_memory"} | ({"device": CPU} if device and there else {})
    result = _convolve(func, args) if func in CONVOLUTIONS else func(*args, **options)
    if func is aten._local_scalar_dense.default or not there:
        return result
    if func is aten.copy_.default and not isinstance(tensors[0], StandIn):
        return tensors[0]
    return tree_map_only(Tensor, lambda t: ours[id(t)] if id(t) in ours else StandIn(t), result)


def _convolve(func: Any, args: Any) -> Any:
    """In float32 whatever the dtype: torch's own 16-bit gradients on a CPU are not all right (2.13, oneDNN)."""
    dtype = args[0].dtype
    if dtype not in (torch.bfloat16, torch.float16):
        return func(*args)
    result = func(*tree_map_only(Tensor, lambda t: t.float(), args))
    return tree_map_only(Tensor, lambda t: t.to(dtype), result)


def _refuse(func: Any, tensors: list[Tensor], there: bool, kwargs: Any, args: Any) -> None:
    """Raise the errors that a GPU would."""
    strangers = [t for t in tensors if not isinstance(t, StandIn)]
    across = bool(strangers) or not there
    if func not in COPIES | TAKE_CPU_INDICES and any(t.dim() for t in strangers):
        shapes = ", ".join(f"{t.device}{list(t.shape)}" for t in tensors)
        raise RuntimeError(f"Expected all tensors to be on the same device, but {func} got {shapes}")
    blocking = not (kwargs.get("non_blocking") or any(a is True for a in args[2:]))
    if Waiting.refusal is not None and (func in WAIT or (func in COPIES and across and blocking)):
        raise RuntimeError(f"{Waiting.refusal}: {func}")


class Operations(TorchDispatchMode):
    """Handles operations that create tensors on the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "fastinpaint":
            with self:
                return dispatch(func, args, kwargs or {})
        return dispatch(func, args, kwargs or {})
