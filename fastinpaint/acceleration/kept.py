"""Counts the bytes that autograd keeps between forward and backward."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from fastinpaint.ops.saved import Slot


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


class KeptBytes(RecomputedBytes):
    """The distinct storages that autograd's saved tensors hold, and with recomputed maps the most of a step.

    Backward frees a saved tensor once its node has run. So a map that is recomputed late adds to fewer of them.

    Attributes:
        owner: the layer that runs now.
        saved: bytes of the saved tensors that are alive.
        by: the same by the layer that saved them.
        now, most: bytes of saved tensors and recomputed maps now, and the most so far.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self.owner, self.saved, self.by = "", 0, Counter[str]()
        self._own = {p.untyped_storage().data_ptr() for p in parameters}
        self._readers = Counter[int]()  # by address: saved tensors of the storage
        self._owners: dict[int, str] = {}

    def saving(self) -> AbstractContextManager[object]:
        """A context for forward: what is saved inside counts until it is freed."""
        return torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: _Saved(self, tensor.detach()),  # a node that keeps its own result would keep itself alive
            lambda saved: saved.tensor,
        )

    def count(self, address: int, size: int, change: int) -> None:
        """Note that one more or one less saved tensor has this storage."""
        if address in self._own:
            return
        known = self._readers[address]
        self._readers[address] = known + change
        if not known:
            self._owners[address] = self.owner
        if not known or not known + change:
            self.saved += size * change
            self.by[self._owners[address]] += size * change
            self.now += size * change
            self.most = max(self.most, self.now)


class _Saved:
    """A saved tensor, from when it is saved to when it is freed."""

    def __init__(self, kept: KeptBytes, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.kept, self.tensor, self.address, self.size = kept, tensor, storage.data_ptr(), storage.nbytes()
        kept.count(self.address, self.size, 1)

    def __del__(self) -> None:
        self.kept.count(self.address, self.size, -1)


def _bytes(value: Tensor | None) -> int:
    return 0 if value is None else value.untyped_storage().nbytes()


def kept_bytes(forward: Callable[[], Tensor], parameters: Iterable[Tensor]) -> int:
    """Bytes that autograd keeps between forward and backward: distinct storages, parameters excluded.

    ``forward`` must return the loss. The loss stays alive while the storages are counted.
    """
    kept = KeptBytes(parameters)
    with kept.saving():
        loss = forward()
    found = kept.saved
    del loss
    return found
