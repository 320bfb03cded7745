"""Every activation in the load of the direct convolutions, and its derivative in their data gradient."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fastinpaint
from fastinpaint.nn import activated
from fastinpaint.ops.conv_block import cpu, reference
from fastinpaint.ops.conv_block.cpu import depthwise, matmul, select
from fastinpaint.ops.dispatch import native
from fastinpaint.ops.norm_act import ACTS
from fastinpaint.ops.norm_act.types import Act, act_of
from tests.ops.conv_block.cpu.cases import PARAMETERS, Case, Inputs, judge

pytestmark = pytest.mark.skipif(native.why_not("cpu") is not None, reason=str(native.why_not("cpu")))
OTHERS = [kind for kind in ACTS if kind not in ("none", "relu", "prelu")]  # prelu's slopes are a tensor
# Sums of few values are near exact in stock torch by luck; dbias is not summed by these kernels.
LUCK = {"var": 3.0, "mean": 3.0, "dmean": 4.0, "dshift": 3.0, "dscale": 3.0, "dbias": 4.0}


def case_of(name: str, kind: str) -> Case:
    """Two sources with tails of channels, an addend after the activation, padding and a stride."""
    if name == "depthwise":
        sources = ((33, f"a {kind}"), (20, f"d {kind}"))
        return Case(name, sources, 53, (14, 9), (3, 3), (2, 1), (1, 1), (1, 1), groups=53)
    if name == "one_tap":
        return Case(name, ((70, f"a {kind}"), (9, f"ad {kind}")), 33, (10, 13), (1, 1), (1, 1), (0, 0), (1, 1))
    return Case(name, ((18, f"a {kind}"),), 24, (7, 9), (3, 3), (2, 2), (1, 1), (1, 1))


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("name", ["depthwise", "one_tap", "padded"])
def test_forward_and_gradients(name: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(select.VARIABLE, "own")
    inputs = Inputs(case_of(name, kind))
    chosen = select.select_kernels(inputs.sources, inputs.weight, inputs.geometry)
    assert chosen == ((depthwise if name == "depthwise" else matmul),) * 3
    for which, value, stock, exact in zip(
        ("y", "mean", "var"), inputs.fwd(cpu), inputs.fwd(reference), inputs.exact, strict=True
    ):
        judge(which, value, stock, exact, LUCK.get(which, 2.0))
    ours, stock, exact = inputs.bwd(cpu), inputs.bwd(reference), inputs.bwd(reference, double=True)
    assert ours.keys() == stock.keys()
    for which, value in ours.items():
        judge(which, value, stock[which], exact[which], LUCK.get(which.split("[")[0], 2.0))


@pytest.mark.parametrize("kind", OTHERS)
def test_the_reference_is_the_derivative_of_itself(kind: str) -> None:
    inputs = Inputs(case_of("padded", kind))
    (source,), weight, bias = inputs.as_double()
    x = source.x.requires_grad_()
    y = reference.fwd([source], weight, bias, inputs.geometry, False)[0]
    (expected,) = torch.autograd.grad(y, x, inputs.dy.double())
    upstream = (inputs.dy.double(), None, None, None, None)
    grads, _, _ = reference.bwd(*upstream, [source], weight, inputs.geometry, [True], False, False)
    torch.testing.assert_close(grads[0].x, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ACTS)
def test_a_code_gives_its_activation_back(kind: str) -> None:
    act = act_of(Act(kind, PARAMETERS.get(kind, 0.0)).code)
    assert act.kind == kind
    assert act.parameter == pytest.approx(PARAMETERS.get(kind, 0.0), rel=1e-7)


def test_kernels_that_load_no_such_activation_leave_it_to_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(select.VARIABLE, "onednn")
    inputs = Inputs(case_of("one_tap", "silu"))
    for value, expected in zip(inputs.fwd(cpu), inputs.fwd(reference), strict=True):
        torch.testing.assert_close(value, expected)
    expected = inputs.bwd(reference)
    for name, value in inputs.bwd(cpu).items():
        torch.testing.assert_close(value, expected[name])


@pytest.mark.parametrize("act", [nn.ReLU6, nn.SiLU, nn.Hardswish], ids=lambda act: act.__name__)
def test_a_mobile_block_makes_no_plain_map(act: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[object] = []
    run = activated.Activated._run
    monkeypatch.setattr(activated.Activated, "_run", lambda self: (made.append(self.act), run(self))[1])
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(8, 48, 1, bias=False), nn.BatchNorm2d(48), act(),
        nn.Conv2d(48, 48, 3, 1, 1, groups=48, bias=False), nn.BatchNorm2d(48), act(),
        nn.Conv2d(48, 12, 1, bias=False), nn.BatchNorm2d(12),
    )  # fmt: skip
    stock, x = torch.nn.Sequential(*net).double(), torch.randn(2, 8, 16, 16)
    expected = stock(x.double())
    expected.square().mean().backward()
    gradients = [p.grad.clone() for p in stock.parameters()]
    net.float().zero_grad()
    fastinpaint.accelerate(net, objective="fuse")
    y = net(x)
    y.square().mean().backward()
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-5)
    for parameter, gradient in zip(net.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad.double(), gradient, rtol=1e-3, atol=1e-5)
    assert [kind for kind in made if kind.kind != "none"] == []
