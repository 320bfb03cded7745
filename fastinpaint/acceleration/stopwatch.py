"""Times the layers of a model: when each is entered, and when its weight's gradient arrives."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from fastinpaint.acceleration.kept import KeptBytes
from fastinpaint.acceleration.links import wrapped_forwards

clock = time.perf_counter
BEFORE_LAYERS = ""  # the part before the first watched layer


def wait_for(device: torch.device) -> None:
    """Wait until the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Watch:
    """Records the times at which layers are entered and at which their weights' gradients arrive."""

    def __init__(self, model: nn.Module, names: Sequence[str], device: torch.device) -> None:
        self.model, self.names, self.device = model, names, device
        self._marks: list[tuple[str, Any]] = []
        self._turn = 0
        self._kept: KeptBytes | None = None

    def watching(self, kept: KeptBytes | None = None) -> Any:
        """A context in which the layers are watched. Kept bytes count for the layer entered last."""
        self._kept = kept
        return _Watching(self)

    def mark(self, name: str) -> None:
        """Record the time at which a layer begins, or ends in backward."""
        if self._kept is not None:
            self._kept.owner = name
        if self.device.type == "cuda":
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((name, event))
        else:
            self._marks.append((name, clock()))

    def begin_step(self) -> None:
        """Call before a step."""
        self._marks.clear()
        self.mark(BEFORE_LAYERS)
        self._turn = 0

    def begin_backward(self) -> None:
        """Call between forward and backward."""
        self._turn = len(self._marks)
        self.mark(BEFORE_LAYERS)

    def end_step(self) -> None:
        """Call after a step."""
        self._turn = self._turn or len(self._marks)
        self.mark(BEFORE_LAYERS)

    def parts(self, backward: bool = True) -> dict[str, float]:
        """Seconds by layer: forward from its entry to the next entry, backward until its weight's gradient arrived."""
        wait_for(self.device)
        found: dict[str, float] = {}
        for i in range((len(self._marks) if backward else self._turn) - 1):
            (name, start), (later, end) = self._marks[i], self._marks[i + 1]
            owner = name if i < self._turn else later
            taken = 1e-3 * start.elapsed_time(end) if self.device.type == "cuda" else end - start
            found[owner] = found.get(owner, 0.0) + taken
        return found


class _Watching:
    def __init__(self, watch: Watch) -> None:
        self.watch = watch

    def __enter__(self) -> None:
        watch = self.watch
        modules = {name: watch.model.get_submodule(name) for name in watch.names}

        def around(name: str, module: nn.Module, forward: Callable[..., Any]) -> Callable[..., Any]:
            def timed(*args: Any, **kwargs: Any) -> Any:
                watch.mark(name)
                return forward(*args, **kwargs)

            return timed

        self._around = wrapped_forwards(modules, around)
        self._around.__enter__()
        self._hooks = []
        for name, module in modules.items():
            weight = module._parameters.get("weight")
            if weight is None:  # a function computes it of others
                weight = next(module.parameters(), None)
            if weight is not None and weight.requires_grad:
                self._hooks.append(weight.register_hook(lambda grad, name=name: watch.mark(name)))

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._around.__exit__(None, None, None)


def second_per_byte(device: torch.device) -> float:
    """Seconds per byte to write a map out and, in backward, to read it and its gradient: five passes over memory."""
    x = torch.ones(1 << 22, device=device)
    seconds = []
    for _ in range(3):
        wait_for(device)
        start = clock()
        x.mul_(1.0)  # reads and writes x
        wait_for(device)
        seconds.append(clock() - start)
    return min(seconds) / (2 * x.nbytes) * 5
