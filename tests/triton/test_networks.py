"""3DCN and CombCN at an eighth of their width: one training step through `accelerate`, every gradient."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import fastinpaint
from fastinpaint.models import CombCN, ModelConfig, ThreeDCN
from fastinpaint.ops import triton_support
from fastinpaint.testing import interpreter
from fastinpaint.testing.compare import error
from tests.triton.ops.cases import DEVICE

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


@pytest.mark.parametrize(("name", "layers", "most"), [("3dcn", 12, 84), ("combcn", 21, 150)])
def test_one_training_step(name, layers, most, monkeypatch):
    """Both networks train as plain PyTorch's do, in so many launches.

    A layer takes one launch forward and one for its statistics; backward, for each source, a dgrad, one for its sums
    and a wgrad, then one for the weight; bare layers have two for the bias.
    """
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    model, inputs = network(name)
    exact_model, plain = copy.deepcopy(model).double(), copy.deepcopy(model)
    upstream = torch.randn(plain(*inputs).shape).to(DEVICE)
    plain = copy.deepcopy(model)
    ours = fastinpaint.accelerate(model, backend="triton")
    with interpreter.launches() as names:
        got = step(ours, inputs, upstream)
    expected = step(plain, inputs, upstream)
    exact = step(exact_model, [x.double() for x in inputs], upstream.double())
    assert got.keys() == expected.keys() == exact.keys()
    if triton_support.INTERPRETING:  # launches are counted where they are interpreted
        assert names.count("conv_fwd_kernel") == layers
        assert len(names) <= most, f"{len(names)} launches"
    for key, value in exact.items():
        scale = value.abs().max().item()
        for kind, mine, theirs in zip(("max", "rms"), error(got[key], value), error(expected[key], value), strict=True):
            # 1e-5 of the largest: errors of the layers behind add up in their own way in either
            assert mine <= 2 * theirs + 1e-5 * scale, f"{key}: {kind} {mine:.3g}, plain torch's {theirs:.3g}"
