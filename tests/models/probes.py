"""Probes on running networks: sizes, and which layer feeds which."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Seen(NamedTuple):
    """A convolution as a running model uses it."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    channels_in: int
    output: tuple[int, ...]


def convolutions(layers: nn.ModuleDict, run: Callable[[], object]) -> dict[str, Seen]:
    """Every layer's convolution, recorded while `run` runs the model."""
    seen: dict[str, Seen] = {}

    def watch(name: str, conv: nn.Module) -> None:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            transposed = isinstance(module, nn.ConvTranspose2d | nn.ConvTranspose3d)
            seen[name] = Seen(
                tuple(module.weight.shape[2:]),
                module.stride,
                module.dilation,
                transposed,
                args[0].shape[1],
                tuple(output.shape[1:]),
            )

        handles.append(conv.register_forward_hook(hook))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, layer in layers.items():
        watch(name, layer.conv)
    run()
    for handle in handles:
        handle.remove()
    return seen


def fed_by(layers: nn.ModuleDict, source: nn.Module, run: Callable[[], object]) -> dict[str, Tensor]:
    """The layers that `source` feeds directly, each with the mask of its input's channels that depend on it.

    All layers' outputs are fixed at their values in a first run; only the source's is changed. An input then changes
    only if the source reaches it without a layer in between.
    """
    first, moved = _inputs(layers, run, None), _inputs(layers, run, source)
    changed = {name: (moved[name] != first[name]).flatten(2).any(2).any(0) for name in layers}
    return {name: channels for name, channels in changed.items() if channels.any()}


def _inputs(layers: nn.ModuleDict, run: Callable[[], object], source: nn.Module | None) -> dict[str, Tensor]:
    """Each layer's input, with every layer's output fixed at a distinct value and the source's increased by one."""
    inputs: dict[str, Tensor] = {}
    handles = []

    def pin(end: nn.Module) -> None:
        def hook(_: nn.Module, __: object, output: Tensor) -> Tensor:
            return torch.full_like(output, 2.0 if end is source else 1.0)

        handles.append(end.register_forward_hook(hook))

    def record(name: str, start: nn.Module) -> None:
        handles.append(start.register_forward_pre_hook(lambda _, args: inputs.__setitem__(name, args[0])))

    ends = [layer[-1] for layer in layers.values()]
    for end in [*ends, source] if source not in ends and source is not None else ends:
        pin(end)
    for name, layer in layers.items():
        record(name, layer[0])
    run()
    for handle in handles:
        handle.remove()
    return inputs
