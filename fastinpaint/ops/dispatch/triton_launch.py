"""A launch of a Triton kernel whose constants are known. Its later calls skip Triton's dispatcher.

The dispatcher works out, in Python, how each argument specialises the kernel, and looks up the compiled kernel. Where
all else is constant, what it finds depends on the tensors' dtypes, on which of them are None, on the alignment of their
addresses, and on the device. A `Launch` keeps compiled kernels by these and calls them as ``compiled[grid](...)`` does,
Triton's own call without a dispatcher. Before, it records what the dispatcher passes to the same kernel. Where that
differs from what would be passed here, as in another version of Triton, every launch stays with the dispatcher.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from fastinpaint.ops.dispatch import triton_support as support

if support.INSTALLED:
    from triton.runtime.jit import JITFunction

    DISPATCHER = JITFunction.run  # tests and tools put others in its place

ALIGNED = 16  # bytes; Triton tells addresses that are multiples of it from others
LEADING = 9  # a compiled kernel's launcher takes these arguments first: the grid, stream, function, metadata, hooks


class Launch:
    """``kernel[grid](*tensors, **numbers)``, to be called with the tensors.

    Args:
        kernel: made by ``triton.jit``, or a stand-in.
        grid: one to three numbers.
        numbers: the parameters after the tensors, and the launch's options.
    """

    __slots__ = ("constants", "dispatch", "first", "grid", "kernel", "ready")

    def __init__(self, kernel: Any, grid: tuple[int, ...], numbers: dict[str, Any]) -> None:
        self.kernel, self.grid, self.dispatch = kernel, (*grid, 1, 1)[:3], partial(kernel[grid], **numbers)
        self.constants: tuple[Any, ...] | None = None  # in the order of the kernel's parameters
        if support.INSTALLED and type(kernel) is JITFunction:
            self.constants = tuple([numbers[name] for name in kernel.arg_names if name in numbers])
        # by kind of call: the kernels that the dispatcher compiled or found
        self.first: dict[tuple[Any, ...], Any] = {}
        self.ready: dict[tuple[Any, ...], Callable[..., object] | None] = {}  # None: the dispatcher runs such calls

    def __call__(self, *tensors: Tensor | None) -> None:
        constants = self.constants
        if constants is None or JITFunction.run is not DISPATCHER or self.kernel.pre_run_hooks:
            self.dispatch(*tensors)
            return
        addresses, some, kinds = 0, None, list[Any]()
        for tensor in tensors:
            if tensor is None:
                kinds.append(None)
            else:
                kinds.append(tensor.dtype)
                addresses |= tensor.data_ptr()
                some = tensor
        key = (None if some is None else some.get_device(), addresses % ALIGNED, *kinds)
        launch = self.ready.get(key)
        if launch is not None:
            launch(*tensors, *constants)
        elif addresses % ALIGNED or key in self.ready:
            self.dispatch(*tensors)
        else:
            self._learn(key, tensors, constants)

    def _learn(self, key: tuple[Any, ...], tensors: tuple[Tensor | None, ...], constants: tuple[Any, ...]) -> None:
        """Launch by the dispatcher, and find out whether the next call of this kind can do without."""
        compiled = self.first.get(key)
        if compiled is None:
            self.first[key] = self.dispatch(*tensors)
            return
        launcher, passed = getattr(compiled, "_run", None), list[tuple[Any, ...]]()
        if launcher is None:
            self.ready[key] = None
            self.dispatch(*tensors)
            return

        def record(*arguments: Any) -> Any:
            passed.append(arguments)
            return launcher(*arguments)

        compiled._run = record
        try:
            self.dispatch(*tensors)
        finally:
            compiled._run = launcher
        same = len(passed) == 1 and passed[0][:3] == self.grid and are_same(passed[0][LEADING:], (*tensors, *constants))
        self.ready[key] = compiled[self.grid] if same else None


class Launches:
    """Launches of one kernel, by what their constants depend on. A key has no kernel: Triton computes its hash slowly.

    A launch holds as long as its kernel stands: tests replace kernels.
    """

    MOST = 1024  # remembered

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Launch] = {}

    def get(self, kernel: Any, key: tuple[Any, ...]) -> Launch | None:
        """The launch that was kept for this key, if any."""
        found = self._known.get(key)
        return found if found is not None and found.kernel is kernel else None

    def keep(self, kernel: Any, key: tuple[Any, ...], grid: tuple[int, ...], numbers: dict[str, Any]) -> Launch:
        """A new launch for this key. If there are too many, forget the others."""
        if len(self._known) >= self.MOST:
            self._known.clear()
        found = self._known[key] = Launch(kernel, grid, numbers)
        return found


def are_same(found: tuple[Any, ...], expected: tuple[Any, ...]) -> bool:
    """Whether the arguments of two launches are the same tensors, and numbers of the same types and values."""
    if len(found) != len(expected):
        return False
    for one, other in zip(found, expected, strict=True):
        if one is not other and (isinstance(one, Tensor) or type(one) is not type(other) or one != other):
            return False
    return True
