"""Launches whose grid and constants are known: what remains of a call are its tensors.

A `Call` keeps them by pass, in a memory of its own. So a layer's later steps neither describe the problem nor choose a
tile again. A launch is kept once its tile is chosen for good, and as long as its kernel stands: tests replace kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fastinpaint.ops.conv_block.triton import ahead
from fastinpaint.ops.dispatch.triton_launch import Launch

Memory = dict[Any, Any]


class Prepared(NamedTuple):
    """One launch.

    Attributes:
        kernel: what is launched.
        launch: takes the kernel's tensors, which are its first parameters.
        sizes: shapes of what the caller allocates.
        written: whether the sources are written out first.
    """

    kernel: Any
    launch: Callable[..., object]
    sizes: tuple[Any, ...] = ()
    written: bool = False


def prepare(
    kernel: Any, grid: tuple[int, ...], numbers: dict[str, Any], sizes: tuple[Any, ...] = (), written: bool = False
) -> Prepared:
    """A launch of the kernel with these parameters besides its tensors."""
    return Prepared(kernel, Launch(kernel, grid, numbers), sizes, written)


def remembered(memory: Memory | None, key: Any, kernel: Any) -> Prepared | None:
    """The launch of an earlier call, where it still holds."""
    if memory is None or ahead._collected is not None:
        return None
    found = memory.get(key)
    return found if found is not None and found.kernel is kernel else None


def kept(memory: Memory, key: Any, found: Prepared, lasts: bool) -> Prepared:
    """The launch; a later call finds it if it lasts, that is, if it will be the same from now on."""
    if lasts:
        memory[key] = found
    return found
