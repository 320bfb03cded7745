"""What a layer remembers of its calls follows what they depend on."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

import fastinpaint
from fastinpaint.ops.conv_block import reference
from fastinpaint.ops.dispatch import native


def network() -> nn.Sequential:
    layers = nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1)
    return fastinpaint.accelerate(nn.Sequential(*layers), objective="fuse")


@pytest.mark.skipif(native.why_not("cpu") is not None, reason="the CPU kernels are not built")
def test_a_warm_layer_follows_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTINPAINT_BACKEND", raising=False)
    calls, right = [], reference.fwd
    monkeypatch.setattr(reference, "fwd", lambda *arguments: calls.append(arguments) or right(*arguments))
    net, x = network(), torch.randn(2, 3, 16, 16)
    net(x)
    assert not calls
    monkeypatch.setenv("FASTINPAINT_BACKEND", "reference")
    net(x)
    assert len(calls) == 2


def test_a_warm_layer_follows_its_settings_and_the_dtype() -> None:
    net, x = network(), torch.randn(2, 3, 16, 16)
    assert net(x).shape == (2, 16, 16, 16)
    net[3].stride, net[3].padding = (2, 2), (0, 0)
    assert net(x).shape == (2, 16, 7, 7)
    assert net.double()(x.double()).dtype == torch.float64


def test_plans_are_not_copied() -> None:
    net, x = network(), torch.randn(2, 3, 16, 16)
    net(x)
    assert net[0]._fastinpaint_plans
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert not vars(other[0]).get("_fastinpaint_plans")
        torch.testing.assert_close(other(x), net(x))
