"""A fake CUDA graph on the CPU with the same guarantees and pitfalls.

As a CUDA graph does, it records operations with the addresses that they read and write and the numbers that they were
given, does nothing of it while recording, and repeats it into the same memory. So a step that reads another tensor
than its buffers, keeps a number of Python's, binds a new tensor where it should change one, or asks for a value, is
wrong here as it would be there. It does not share memory between tensors that live at different times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

aten = torch.ops.aten
WAIT = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.equal.default,
    aten.masked_select.default,
    aten.is_nonzero.default,
    aten._unique2.default,
    aten.unique_dim.default,
    aten.bincount.default,
    aten.repeat_interleave.Tensor,
}
# Of a mask these must know how many values it takes.
BY_MASK = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default, aten._index_put_impl_.default}
# These change their running statistics, which their schema does not say.
UNDECLARED = {aten.native_batch_norm.default: (3, 4)}


def tensors(value: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor's storage, flat."""
    count = tensor.untyped_storage().nbytes() // tensor.element_size()
    return tensor.detach().as_strided((count,), (1,), 0)


class Recording(TorchDispatchMode):
    """Operations as they come, what they wrote over, and what they made."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Callable[..., Any], Any, Any, list[Tensor]]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        self.made: dict[int, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func in BY_MASK and any(t is not None and t.dtype in (torch.bool, torch.uint8) for t in args[1])
        if func in WAIT or by_mask:
            raise RuntimeError(f"operation not permitted when stream is capturing: {func}\nand more lines")
        kwargs = kwargs or {}
        for written in self._written(func, args, kwargs):
            if storage(written) not in self.made and storage(written) not in self.before:
                self.before[storage(written)] = (written, whole(written).clone())
        result = func(*args, **kwargs)
        given = {storage(t) for t in tensors((args, kwargs))}
        new = [t for t in tensors(result) if storage(t) not in given]
        self.made |= {storage(t): t for t in new}
        self.calls.append((func, args, kwargs, new))
        return result

    def _written(self, func: Any, args: Any, kwargs: Any) -> Iterator[Tensor]:
        for place in UNDECLARED.get(func, ()):
            yield from tensors(args[place])
        for place, argument in enumerate(func._schema.arguments):
            if argument.alias_info is not None and argument.alias_info.is_write:
                yield from tensors(args[place] if place < len(args) else kwargs.get(argument.name))

    def undo(self) -> None:
        """Nothing of it has happened."""
        with torch.no_grad():
            for tensor, before in self.before.values():
                whole(tensor).copy_(before)
            for tensor in self.made.values():
                whole(tensor).fill_(float("nan") if tensor.is_floating_point() else 99)

    @torch.no_grad()
    def replay(self) -> None:
        """Do it all into the same memory."""
        for func, args, kwargs, made in self.calls:
            result = func(*args, **kwargs)
            given = {storage(t) for t in tensors((args, kwargs))}
            again = [t for t in tensors(result) if storage(t) not in given]
            for old, new in zip(made, again, strict=True):
                old.detach().copy_(new)


class Tape:
    """Records and replays like `fastinpaint.graph.CudaRecorder`."""

    made: list[Tape] = []  # noqa: RUF012 - the tests look here for what the trainer made

    def __init__(self, device: torch.device) -> None:
        self.recording: Recording | None = None
        self.asides = self.replays = 0
        self.made.append(self)

    def aside(self) -> nullcontext[None]:
        self.asides += 1
        return nullcontext()

    def record(self, work: Callable[[], None]) -> None:
        recording = Recording()
        try:
            with recording:
                work()
        finally:
            recording.undo()
        self.recording = recording

    def replay(self) -> None:
        assert self.recording is not None
        self.replays += 1
        self.recording.replay()
