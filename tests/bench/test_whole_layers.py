"""Whole layers give equal results by plain PyTorch in both formats and by this library, and they make up the net."""

from __future__ import annotations

import pytest
import torch

from fastinpaint.bench.contenders import Workload, plain
from fastinpaint.bench.layers import layer_cases
from fastinpaint.bench.whole_contenders import Fused, Plain
from fastinpaint.bench.whole_layers import Inputs, whole_layers

TINY = Workload(frames=2, size=16)
# pixels; a pad and two sources; guidance; guidance and a skip; without batch norm; guidance alone
NAMES = ("3DCN 1", "3DCN 9", "CombCN 3", "CombCN 15", "CombCN 17", "guidance 2")
LEAVES = {"3DCN 9": {"x", "norm.weight", "norm.bias", "skip", "weight"}, "guidance 2": {"x", "weight", "bias"}}


@pytest.mark.parametrize("name", NAMES)
def test_both_ways_give_the_same(name):
    layer = next(layer for layer in whole_layers(TINY) if layer.case.name == name)
    inputs = Inputs.random(layer, "cpu", torch.float32)
    reference = Plain(layer, inputs, last=False)
    assert set(reference.leaves) >= LEAVES.get(name, {"weight"})
    expected = reference.results()
    for contender in (Plain(layer, inputs, last=True), Fused(layer, inputs)):
        found = contender.results()
        assert found.keys() == expected.keys()
        for what, value in found.items():
            error = float((value - expected[what]).norm() / expected[what].norm())
            assert error < 1e-5, f"{type(contender).__name__} {what}: {error:.1e}"  # at most 4e-6 was seen


def test_the_statistics_are_those_of_batch_norm_in_training():
    """Plain splits batch norm into two parts, which a net does in one call."""
    layer = next(layer for layer in whole_layers(TINY) if layer.case.name == "CombCN 5")
    halves = Plain(layer, Inputs.random(layer, "cpu", torch.float32), last=False)
    y, mean, var = halves.forward()
    whole = torch.nn.functional.batch_norm(y, None, None, training=True)
    shape = (1, -1, 1, 1)
    torch.testing.assert_close((y - mean.view(shape)) / (var.view(shape) + 1e-5).sqrt(), whole)


def test_the_layers_make_up_the_net():
    layers = [layer for layer in whole_layers(TINY) if not layer.case.name.startswith("guidance")]
    assert sum(layer.macs() for layer in layers) == sum(case.macs() for case in layer_cases(TINY))
    found = sum(parameter.numel() for layer in layers for parameter in parameters(layer))
    assert found == sum(parameter.numel() for parameter in plain(TINY).parameters())


def parameters(layer):
    """The multiply-adds of the layer and its guidance."""
    yield from layer.case.module.parameters()
    if layer.guidance is not None:
        yield from layer.guidance.module.parameters()
