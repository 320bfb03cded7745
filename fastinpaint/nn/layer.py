"""What the fused layers share: torch's own layers, made to read and return deferred activations.

Each class is a torch layer with another ``forward``: same constructor, parameters, buffers and ``state_dict``.
`fastinpaint.accelerate` turns one into the other by changing the module's class. What a layer cannot take (a dtype, a
padding mode, an unbatched input) goes through torch's own forward. A layer with hooks takes and returns plain tensors.

An unobserved call (`fastinpaint.nn.observed`) takes a short way in ``__call__``. ``forward`` works everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fastinpaint.nn.deferred import Deferred, plain
from fastinpaint.nn.observed import hooked, torch_must_run
from fastinpaint.nn.raw import Options
from fastinpaint.nn.region import inside

Map = Tensor | Deferred
# Compilers before 2.13 fail on a Deferred in a list, as torch.cat is given: there each layer gives a plain tensor. This
# one fails on a tuple, see `Options.plain_compiled`.
COMPILER_TAKES_DEFERRED = torch.__version__ >= "2.13"  # compared as versions, by torch


class _Layer(nn.Module):
    """What the layers share. `fastinpaint.accelerate` sets these attributes on a module."""

    _fastinpaint = Options()
    _fastinpaint_accelerated = False  # by `accelerate`: outside its model it gives plain tensors
    _fastinpaint_plain = False  # whether it always gives plain tensors
    _fastinpaint_follows = False  # whether it gives plain inputs to torch's own layer

    _fused: Callable[..., Any]  # the layer's result, deferred; NotImplemented where only torch's own layer can give it

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if hooked(self):
            args, kwargs = plain(args, True), plain(kwargs, True)
        return super().__call__(*args, **kwargs)

    def _by_torch(self, input: Map) -> Any:
        """The result of torch's own layer, for unobserved calls."""
        result = super().forward(input.tensor() if isinstance(input, Deferred) else input)
        return result.contiguous() if self._fastinpaint.contiguous else result

    def forward(self, input: Map, *args: Any, **kwargs: Any) -> Any:
        compiling = torch.compiler.is_compiling()
        fused = compiling or not torch_must_run(input)
        if self._fastinpaint_follows and not isinstance(input, Deferred):
            fused = False
        result = self._fused(input, *args, **kwargs) if fused else NotImplemented
        if result is NotImplemented:
            result = super().forward(plain(input), *args, **kwargs)
            return result.contiguous() if self._fastinpaint.contiguous and isinstance(result, Tensor) else result
        refused = compiling and (self._fastinpaint.plain_compiled or not COMPILER_TAKES_DEFERRED)
        outside = not compiling and self._fastinpaint_accelerated and not inside()
        return plain(result) if refused or outside or self._fastinpaint_plain or hooked(self) else result
