"""Counts the bytes that autograd keeps between forward and backward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from fastinpaint.ops.saved import Slot


class Kept:
    """The distinct storages that autograd saved, by the layer that saved them."""

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.own = {p.untyped_storage().data_ptr() for p in parameters}
        self.sizes: dict[int, int] = {}
        self.by: dict[str, int] = {}
        self.now = ""  # the layer that runs now
        self._alive: list[torch.UntypedStorage] = []

    @property
    def total(self) -> int:
        """All bytes."""
        return sum(self.sizes.values())

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what is saved inside. All of it stays alive, so that no address is used twice."""
        with torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor):
            yield
        self._alive.clear()

    def _pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        address = storage.data_ptr()
        if address not in self.own and address not in self.sizes:
            self.sizes[address] = storage.nbytes()
            self.by[self.now] = self.by.get(self.now, 0) + storage.nbytes()
            self._alive.append(storage)
        return tensor.detach()  # a node that keeps its own result would keep itself alive


class RecomputedBytes:
    """The peak bytes of maps that backward recomputed (see `ops.saved`)."""

    def __init__(self) -> None:
        self.now = self.most = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count what the recipes of all graphs hold while inside."""

        def noting(slot: Slot, name: str, value: Tensor | None) -> None:
            self.now += _bytes(value) - _bytes(slot.value)
            self.most = max(self.most, self.now)
            object.__setattr__(slot, name, value)

        Slot.__setattr__ = noting  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            del Slot.__setattr__


class PeakBytes(RecomputedBytes):
    """The most bytes that autograd's saved tensors and recomputed maps hold at a time in a step.

    Backward frees a saved tensor once its node has run. So a map that is recomputed late adds to fewer of them.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self._own = {p.untyped_storage().data_ptr() for p in parameters}
        self._readers = Counter[int]()  # by address: saved tensors of the storage

    def saving(self) -> AbstractContextManager[object]:
        """A context for forward: what is saved inside counts until it is freed."""
        return torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: _Saved(self, tensor.detach()), lambda saved: saved.tensor
        )

    def count(self, address: int, size: int, change: int) -> None:
        """Note that one more or one less saved tensor has this storage."""
        if address in self._own:
            return
        known = self._readers[address]
        self._readers[address] = known + change
        if not known or not known + change:
            self.now += size * change
            self.most = max(self.most, self.now)


class _Saved:
    """A saved tensor, from when it is saved to when it is freed."""

    def __init__(self, peak: PeakBytes, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.peak, self.tensor, self.address, self.size = peak, tensor, storage.data_ptr(), storage.nbytes()
        peak.count(self.address, self.size, 1)

    def __del__(self) -> None:
        self.peak.count(self.address, self.size, -1)


def _bytes(value: Tensor | None) -> int:
    return 0 if value is None else value.untyped_storage().nbytes()


def kept_bytes(forward: Callable[[], Tensor], parameters: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps between forward and backward: distinct storages, parameters excluded.

    ``forward`` must return the loss. The loss stays alive while the storages are counted.
    """
    kept = Kept(parameters)
    with kept.counting():
        loss = forward()
    del loss
    return kept.total
