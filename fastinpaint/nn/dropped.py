"""Finds where a deferred activation would lose a gradient, in part or as a whole.

An autograd.Function knows only real tensors. The plain tensor of a map that other layers have read as it was has no
gradient from them.
"""

from __future__ import annotations

from types import CodeType

import torch

from fastinpaint.nn.region import inside

handed_out: set[str] = set()  # makers of maps that left a model after other layers had read them


class GradientDroppedError(RuntimeError):
    """Something knows only tensors with values among its arguments, and was given a deferred activation.

    Args:
        maker: the name of the layer that made the activation, in its model; may be empty.
        sentence: what would be wrong.
    """

    latest = ""  # the maker that the last of these errors named
    function = (
        "an autograd.Function, a scripted function, or torch.utils.checkpoint with use_reentrant=True, was given the "
        "deferred activation of layer '{}', whose gradient it would drop; give it fastinpaint.nn.plain(x)."
    )
    watched = ".{} must come before other layers read the activation of layer '{{}}'."
    by = (
        "a gradient by the activation of layer '{}' would lack the part that other layers give it; give these "
        "fastinpaint.nn.plain(x), and x to torch.autograd."
    )

    def __init__(self, maker: str, sentence: str = function) -> None:
        super().__init__(f"fastinpaint: {sentence.format(maker)}")
        GradientDroppedError.latest = maker


def note_reader(maker: str) -> None:
    """Note in `handed_out` that code outside the running model reads a map that its layers have read before."""
    if not torch.compiler.is_compiling() and not inside():
        handed_out.add(maker)


def forwards(function: type) -> set[CodeType]:
    """The code of every ``forward`` of an autograd.Function, which runs without gradients."""
    found: set[CodeType] = set()
    subclasses: list[type] = function.__subclasses__()
    for kind in subclasses:
        forward = vars(kind).get("forward")
        code = getattr(getattr(forward, "__func__", forward), "__code__", None)
        if isinstance(code, CodeType):
            found.add(code)
        found |= forwards(kind)
    return found
