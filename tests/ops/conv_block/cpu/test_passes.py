"""What is prepared for one convolution gives the bits of the functions that it stands for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses import FakeTensorMode

from fastinpaint.ops.batch_norm.reference import Norm, Running
from fastinpaint.ops.conv_block import cpu
from fastinpaint.ops.conv_block.cpu import passes
from fastinpaint.ops.dispatch import native
from fastinpaint.ops.norm_act import Act
from fastinpaint.ops.types import Geometry, Source, SourceGrad

pytestmark = pytest.mark.skipif(native.why_not("cpu") is not None, reason="the CPU kernels are not built")

SILU = Act("silu").code
# Channels of each source, shape of the weight, geometry, size, the sources' activation.
CONVS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Geometry, tuple[int, ...], int]] = {
    "depthwise": ((12,), (12, 1, 3, 3), Geometry((2, 2), (1, 1), (1, 1), (0, 0), False, 12), (9, 8), SILU),
    "depthwise 3D": (
        (16,),
        (16, 1, 3, 1, 3),
        Geometry((1,) * 3, (1, 0, 1), (1,) * 3, (0,) * 3, False, 16),
        (4, 6, 5),
        1,
    ),
    "1x1": ((20,), (12, 20, 1, 1), Geometry((1, 1), (0, 0), (1, 1), (0, 0)), (8, 8), SILU),
    "1x1 of two": ((12, 20), (24, 32, 1, 1), Geometry((1, 1), (0, 0), (1, 1), (0, 0)), (8, 8), 1),
    "1x1 in one pass": ((16,), (16, 16, 1, 1), Geometry((1, 1), (0, 0), (1, 1), (0, 0)), (64, 48), 1),
    "taps in time": ((16,), (24, 16, 3, 1, 1), Geometry((1,) * 3, (1, 0, 0), (1,) * 3, (0,) * 3), (5, 8, 8), 0),
    "winograd": ((16,), (32, 16, 3, 3), Geometry((1, 1), (1, 1), (1, 1), (0, 0)), (64, 64), 1),
    "winograd of two": ((16, 32), (16, 48, 3, 3), Geometry((1, 1), (1, 1), (1, 1), (0, 0)), (64, 64), 1),
    "winograd up": ((32,), (32, 16, 4, 4), Geometry((2, 2), (1, 1), (1, 1), (0, 0), True), (32, 32), 1),
}


@pytest.fixture(autouse=True)
def own_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTINPAINT_CPU_CONV", "own")
    torch.manual_seed(0)


def dense(*shape: int) -> Tensor:
    return torch.randn(shape).to(memory_format=torch.channels_last if len(shape) == 4 else torch.channels_last_3d)


def problem(name: str, addend: bool = False, mean: bool = True) -> tuple[list[Source], Tensor, Geometry]:
    channels, weight, geometry, size, relu = CONVS[name]
    sources = []
    for c in channels:
        vectors = (torch.randn(c), torch.rand(c) + 0.5, torch.randn(c)) if mean else (None, None, None)
        sources.append(Source(dense(2, c, *size), *vectors, relu, dense(2, c, *size) if addend else None))
    return sources, torch.randn(weight), geometry


def norm_of(channels: int, affine: bool = True, running: bool = True) -> Norm:
    vectors = (torch.rand(channels) + 0.5, torch.randn(channels)) if affine else (None, None)
    kept = Running(torch.zeros(channels), torch.ones(channels), torch.tensor(3), 0.1) if running else None
    return Norm(*vectors, kept, 1e-3)


def flat(found: Any) -> list[Tensor]:
    if isinstance(found, Tensor):
        return [found]
    return [t for one in found for t in flat(one)] if isinstance(found, (tuple, list)) else []


def same(found: Any, expected: Any) -> None:
    one, other = flat(found), flat(expected)
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert a.stride() == b.stride()
        assert torch.equal(a, b)


def prepared(sources: list[Source], weight: Tensor, geometry: Geometry) -> passes.Passes:
    found = cpu.prepare(sources, weight, geometry)
    assert isinstance(found, passes.Passes)
    return found


def nothing_else_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("fwd_norm", "bwd_norm"):
        monkeypatch.setattr(cpu, name, lambda *_: pytest.fail("it was left to the functions of the module"))


@pytest.mark.parametrize("mean", [True, False], ids=["normalised", "raw"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", ""])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", ""])
@pytest.mark.parametrize("name", CONVS)
def test_forward(name: str, affine: bool, bias: bool, mean: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    sources, weight, geometry = problem(name, addend=bias, mean=mean)
    out = weight.shape[1] if geometry.transposed else weight.shape[0]
    offset = torch.randn(out) if bias else None
    norms = []
    for _ in range(2):
        torch.manual_seed(1)
        norms.append(norm_of(out, affine, running=affine))
    expected = cpu.fwd_norm(sources, weight, offset, geometry, norms[0])
    run = prepared(sources, weight, geometry)
    nothing_else_runs(monkeypatch)
    same(run.fwd_norm(sources, weight, offset, geometry, norms[1]), expected)
    if affine:
        same(norms[1].running, norms[0].running)
        assert norms[1].running.tracked == 4


@pytest.mark.parametrize("given", ["both", "mean", "scale", "neither"])
@pytest.mark.parametrize("mean", [True, False], ids=["normalised", "raw"])
@pytest.mark.parametrize("name", CONVS)
def test_backward(name: str, mean: bool, given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sources, weight, geometry = problem(name, addend=given == "both", mean=mean)
    out = weight.shape[1] if geometry.transposed else weight.shape[0]
    norm = norm_of(out)
    y, normed = cpu.fwd_norm(sources, weight, None, geometry, norm)
    dmean = torch.randn(out) if given in ("both", "mean") else None
    dscale = torch.randn(out) if given in ("both", "scale") else None
    needs_bias = given == "both"
    arguments = (
        dense(*y.shape), dmean, dscale, y, normed, None if given == "mean" else norm.weight, sources, weight, geometry,
        [True] * len(sources), True, needs_bias,
    )  # fmt: skip
    expected = cpu.bwd_norm(*arguments)
    run = prepared(sources, weight, geometry)
    nothing_else_runs(monkeypatch)
    same(run.bwd_norm(*arguments), expected)


@pytest.mark.parametrize("name", ["1x1 of two", "winograd of two"])
def test_one_of_two_sources_needs_a_gradient(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sources, weight, geometry = problem(name)
    y, normed = cpu.fwd_norm(sources, weight, None, geometry, norm_of(len(weight)))
    vectors = (torch.randn(len(weight)), torch.randn(len(weight)))
    arguments = (dense(*y.shape), *vectors, y, normed, None, sources, weight, geometry, [False, True], True, False)
    expected = cpu.bwd_norm(*arguments)
    run = prepared(sources, weight, geometry)
    nothing_else_runs(monkeypatch)
    found = run.bwd_norm(*arguments)
    assert found[0][0] == SourceGrad()
    same(found, expected)


@pytest.mark.parametrize("name", ["depthwise", "1x1 of two", "winograd"])
def test_what_does_not_lie_as_it_should_is_left_to_the_module(name: str) -> None:
    sources, weight, geometry = problem(name)
    run, out = prepared(sources, weight, geometry), weight.shape[0]
    others: list[list[Source]] = []
    for change in ({"x": sources[0].x.contiguous()}, {"shift": torch.randn(sources[0].x.shape[1], 2)[:, 0]}):
        others.append([sources[0]._replace(**change), *sources[1:]])
    for given in others:
        y, normed = cpu.fwd_norm(given, weight, None, geometry, norm_of(out, False))
        same(run.fwd_norm(given, weight, None, geometry, norm_of(out, False)), (y, normed))
        for dy, needs in ((dense(*y.shape), True), (torch.randn(y.shape), True), (dense(*y.shape), False)):
            rest = ([needs] * len(given), True, False)
            expected = cpu.bwd_norm(dy, None, torch.ones(out), y, normed, None, given, weight, geometry, *rest)
            same(run.bwd_norm(dy, None, torch.ones(out), y, normed, None, given, weight, geometry, *rest), expected)


def test_what_has_no_passes() -> None:
    sources, weight, geometry = problem("winograd")
    assert cpu.prepare([sources[0]._replace(relu=SILU)], weight, geometry) is None
    assert cpu.prepare(sources, torch.randn(32, 16, 3, 6)[..., ::2], geometry) is None
    assert cpu.prepare([sources[0]._replace(x=sources[0].x.double())], weight.double(), geometry) is None
    with FakeTensorMode():
        assert cpu.prepare(sources, weight, geometry) is None
