"""Finds where a deferred activation would lose its gradient: in an autograd.Function, which knows only real tensors."""

from __future__ import annotations

from types import CodeType


class GradientDroppedError(RuntimeError):
    """Something knows only tensors with values among its arguments, and was given a deferred activation.

    Args:
        maker: the name of the layer that made the activation, in its model; may be empty.
    """

    latest = ""  # the maker that the last of these errors named

    def __init__(self, maker: str) -> None:
        super().__init__(
            "fastinpaint: an autograd.Function, a scripted function, or torch.utils.checkpoint with "
            f"use_reentrant=True, was given the deferred activation of layer '{maker}', whose gradient it would drop; "
            "give it fastinpaint.nn.plain(x)."
        )
        GradientDroppedError.latest = maker


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
