"""3DCN and CombCN at an eighth of their width: one training step through `accelerate`, every gradient."""

from __future__ import annotations

import copy
from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import fastinpaint
from fastinpaint.models import CombCN, ModelConfig, ThreeDCN
from fastinpaint.ops.dispatch import triton_support
from fastinpaint.testing import interpreter
from fastinpaint.testing.compare import error
from tests.ops.triton.cases import DEVICE

CONFIG = ModelConfig(width=0.125)


def network(name: str) -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(0)
    model, shapes = (ThreeDCN, [(1, 4, 2, 8, 8)]) if name == "3dcn" else (CombCN, [(2, 4, 8, 8), (2, 3, 4, 4)])
    return model(CONFIG).to(DEVICE), [torch.rand(shape).to(DEVICE) for shape in shapes]


def step(model: nn.Module, inputs: list[Tensor], upstream: Tensor) -> dict[str, Tensor]:
    """Output, every gradient and every buffer after one forward and backward."""
    output = model(*inputs)
    output.backward(upstream.to(output.dtype))
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"output": output.detach(), **found, **{n: b for n, b in model.named_buffers() if b.is_floating_point()}}


# With one or two sources, a layer has one launch forward and one that finishes its statistics and batch norm, then a
# dgrad, a wgrad and one that finishes the sums of both. Layers without batch norm have no statistics; wgrad also sums
# their bias' gradient. The video needs no gradient. CombCN's guidance is not kept, so it is computed twice. The frame
# of zeros before 3DCN's transposed layers is never written.
LAUNCHES = {
    "3dcn": {
        "conv_fwd_kernel": 12, "finish_norm_kernel": 11, "conv_dgrad_kernel": 11, "conv_wgrad_kernel": 12,
        "conv_finish_kernel": 12,
    },
    "combcn": {
        "conv_fwd_kernel": 19 + 2, "finish_norm_kernel": 16, "conv_dgrad_kernel": 16, "conv_wgrad_kernel": 19,
        "conv_finish_kernel": 19,
    },
}  # fmt: skip


class Copies(TorchDispatchMode):
    """Counts the copies that torch makes."""

    number = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.number += function in (torch.ops.aten._to_copy.default, torch.ops.aten.clone.default)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", LAUNCHES)
def test_one_training_step(name, monkeypatch):
    """Both networks train as in plain PyTorch with this number of launches. Weights are packed once for both passes."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model, inputs = network(name)
    exact_model, plain = copy.deepcopy(model).double(), copy.deepcopy(model)
    upstream = torch.randn(plain(*inputs).shape).to(DEVICE)
    plain = copy.deepcopy(model)
    ours = fastinpaint.accelerate(model, backend="triton")
    with interpreter.launches() as names, Copies() as copies:
        got = step(ours, inputs, upstream)
    if triton_support.INTERPRETING:  # launches are counted where they are interpreted
        assert Counter(names) == LAUNCHES[name]
        assert len(names) == {"3dcn": 58, "combcn": 91}[name]
    assert copies.number == LAUNCHES[name]["conv_wgrad_kernel"] + 1  # a weight each, and what leaves the model
    expected = step(plain, inputs, upstream)
    exact = step(exact_model, [x.double() for x in inputs], upstream.double())
    assert got.keys() == expected.keys() == exact.keys()
    for key, value in exact.items():
        scale = value.abs().max().item()
        for kind, mine, theirs in zip(("max", "rms"), error(got[key], value), error(expected[key], value), strict=True):
            # 1e-5 of the largest: errors of the layers behind add up in their own way in either
            assert mine <= 2 * theirs + 1e-5 * scale, f"{key}: {kind} {mine:.3g}, plain torch's {theirs:.3g}"
