"""Forward and whole backward of each of the 29 layers and the two guidance convolutions, as in a training step.

`fastinpaint.bench.whole_layers` defines a layer so that all contenders do the same arithmetic. None has to write an
activation that its net would not write, and one backward gives both gradients.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastinpaint.bench.contenders import BACKENDS, Workload
from fastinpaint.bench.layers import layer_cases
from fastinpaint.bench.measure import kept_bytes
from fastinpaint.bench.whole_contenders import Fused, LayerRun, Named, Plain
from fastinpaint.bench.whole_layers import Inputs, WholeLayer, whole_layers

pytestmark = pytest.mark.in_turns
NAMES = [case.name for case in layer_cases(Workload(frames=1, size=16))]
PASSES = ("forward", "backward")


def by_backend(backend: str, layer: WholeLayer, inputs: Inputs, workload: Workload) -> LayerRun:
    """This library with one backend."""
    return Fused(layer, inputs, backend)


MAKERS: dict[str, Callable[[WholeLayer, Inputs, Workload], LayerRun]] = {
    "eager": lambda layer, inputs, workload: Plain(layer, inputs, last=False),
    "eager channels-last": lambda layer, inputs, workload: Plain(layer, inputs, last=True),
    "fastinpaint": lambda layer, inputs, workload: Fused(layer, inputs, workload.backend),
    **{name: functools.partial(by_backend, backend) for name, backend in BACKENDS.items()},
}


@functools.cache
def layers(workload: Workload) -> dict[str, WholeLayer]:
    """The layers at the workload's size, by name."""
    return {layer.case.name: layer for layer in whole_layers(workload)}


@functools.lru_cache(maxsize=1)
def expected(name: str, workload: Workload) -> tuple[Inputs, Named]:
    """The inputs and plain PyTorch's results, cached, as a layer's contenders run one after another."""
    layer = layers(workload)[name]
    inputs = Inputs.random(layer, workload.device, workload.torch_dtype)
    return inputs, Plain(layer, inputs, last=False).results()


def parameters(contender: LayerRun) -> list[Tensor]:
    """The tensors that a step keeps in any case."""
    return [leaf for name, leaf in contender.leaves.items() if name.endswith(("weight", "bias"))]


@pytest.mark.parametrize("contender", MAKERS)
@pytest.mark.parametrize("which", PASSES)
@pytest.mark.parametrize("name", NAMES, ids=lambda name: name.replace(" ", "_"))
def test_layer(name, which, contender, workload, measure):
    """Compared with plain PyTorch in the same dtype, then timed."""
    layer, (inputs, truth) = layers(workload)[name], expected(name, workload)
    made = MAKERS[contender](layer, inputs, workload)
    found = made.results()
    assert found.keys() == truth.keys()
    tolerance = 1e-3 if workload.torch_dtype == torch.float32 else 0.1
    for what, value in found.items():
        error = float((value.float() - truth[what].float()).norm() / truth[what].float().norm())
        assert error < tolerance, f"{contender}: {what} is {error:.1e} off"
    kept = kept_bytes(made.forward, parameters(made))
    # the least traffic: forward x and y; backward x and both gradients; always the weights
    case, passes = layer.case, 2 - layer.first
    there, out = math.prod(case.shape), math.prod(case.out_shape)
    if which == "forward":
        flops, values = 2 * layer.needed_macs(), there + out + case.conv.weight.numel()
    else:
        flops, values = 2 * passes * layer.needed_macs(), passes * there + out + passes * case.conv.weight.numel()
    moved = inputs.dy.element_size() * values
    work = made.forward if which == "forward" else made.backward
    more = {"intensity": flops / moved, "kept_bytes": kept, "predicted": predicted(name, which, contender, workload)}
    measure(work, f"{name} {which}", contender, flops, moved, kind="layer", **more)


def predicted(name: str, which: str, contender: str, workload: Workload) -> float | None:
    """The least seconds by the kernels' machine code on an H200 (docs/results/gpu_bounds.md), where they are known."""
    if workload != Workload(dtype="bfloat16", device=workload.device, backend=workload.backend):
        return None
    kinds = ("forward",) if which == "forward" else ("dgrad", "wgrad")
    found = [bounds().get((name.lower().replace(" ", "."), kind, BACKENDS.get(contender))) for kind in kinds]
    return None if None in found else sum(filter(None, found))


@functools.cache
def bounds() -> dict[tuple[str, str, str | None], float]:
    """Seconds of each layer, pass and path on an H200."""
    rows = json.loads((Path(__file__).parents[1] / "docs/results/gpu_bounds.json").read_text())
    return {(r["layer"], r["name"], r["path"]): 1e-6 * r["microseconds"] for r in rows if r["arch"] == "sm_90"}
