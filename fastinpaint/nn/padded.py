"""`Padded`: a deferred activation with zeros around it, which a convolution adds to its padding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastinpaint.nn.deferred import HANDLERS, OPTIONS, Deferred, defer, joined_shape
from fastinpaint.nn.pending_conv import activate
from fastinpaint.nn.raw import Options, Part, Raw
from fastinpaint.ops.conv_block.zero_padding import Zeros


class Padded(Deferred):
    """Several `Part`, concatenated over the channels, and zeros around them, for a convolution that takes both.

    Every other reader gets the plain tensor with the zeros written.
    """

    _zeros: Zeros | None  # None once it is the plain tensor for good

    def __init__(self, parts: Sequence[Part], zeros: Zeros, options: Options = OPTIONS) -> None:
        self._zeros = zeros
        super().__init__(parts, options)

    @property
    def shape(self) -> torch.Size:
        inner = joined_shape(self._parts)
        return inner if self._zeros is None else padded_shape(inner, self._zeros)

    def apart(self) -> tuple[tuple[Part, ...], Zeros] | None:
        """What a convolution loads, and the zeros around it; None where readers get the plain tensor."""
        if self._zeros is None or self._superseded():
            return None
        self._refuse_function()
        self._read = True
        return self._parts, self._zeros

    def materialize_(self) -> Tensor:
        plain = super().materialize_()
        self._zeros = None
        return plain

    def _computed(self) -> Tensor:
        assert self._zeros is not None
        inner = activate(self._parts, self._options)
        return F.pad(inner, [end for ends in reversed(self._zeros) for end in ends])

    def _current(self) -> tuple[Part, ...]:
        return (Part(Raw(self._base())),)


def padded_shape(inner: torch.Size, zeros: Zeros) -> torch.Size:
    """The shape of a map with zeros around it."""
    sizes = (size + before + behind for size, (before, behind) in zip(inner[2:], zeros, strict=True))
    return torch.Size((*inner[:2], *sizes))


def zeros_of(padding: Sequence[int], dims: int) -> Zeros | None:
    """torch's padding of a map with that many dimensions, before and behind each spatial axis; None if it is not one.

    torch counts the axes from the last one, may reach the channels, and crops for a negative entry.
    """
    missing = dims - 2 - len(padding) // 2
    if missing < 0 or len(padding) % 2 or min(padding, default=0) < 0:
        return None
    return ((0, 0),) * missing + tuple(zip(padding[-2::-2], padding[::-2], strict=True))


def _pad(input: Deferred, pad: Sequence[int], mode: str = "constant", value: float | None = None) -> Any:
    around = zeros_of(tuple(pad), input.dim()) if mode == "constant" and not value else None
    return NotImplemented if around is None else defer(Padded, input.parts(), around, input._options)


HANDLERS[F.pad] = _pad
