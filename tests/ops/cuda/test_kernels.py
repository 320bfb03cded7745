"""Every CUDA kernel keeps the accuracy rule against float64 in every dtype."""

from __future__ import annotations

import ctypes
import warnings

import pytest
import torch

from fastinpaint.ops.activation import cuda as activation
from fastinpaint.ops.conv_block import cuda, reference
from fastinpaint.ops.conv_block.cuda import abi
from fastinpaint.ops.dispatch import native_cuda
from fastinpaint.ops.types import Geometry, Source
from fastinpaint.testing.compare import error
from fastinpaint.testing.rule import double
from tests.ops.cuda import small_cases, tf32


@pytest.mark.parametrize("dtype", small_cases.DTYPES)
@pytest.mark.parametrize("name", [*small_cases.OTHERS, *small_cases.CONVS])
def test_kernel_keeps_the_rule(name: str, dtype: str, device: str) -> None:
    small_cases.run(name, dtype, device)


WHOLE = ("stride 2, two sources", "transposed 3d", "4 channels in, 5x5", "3 channels out", "dilation 4, dead taps")


@pytest.mark.parametrize("dtype", small_cases.DTYPES)
@pytest.mark.parametrize("name", WHOLE)
def test_small_whole_numbers_come_out_exact(name: str, dtype: str, device: str) -> None:
    """Without rounding, a single value in a wrong lane of a fragment shows. On a GPU this checks its real layouts."""
    conv, kind = small_cases.CONVS[name], small_cases.DTYPES[dtype]
    generator = torch.Generator().manual_seed(0)

    def whole(like: torch.Tensor) -> torch.Tensor:
        return torch.randint(-2, 3, like.shape, generator=generator).to(kind)

    sources, weight, _, geometry = small_cases.conv_inputs(conv, kind)
    sources, weight = [Source(whole(s.x)) for s in sources], whole(weight)
    exact, *_ = reference.fwd(double(sources), weight.double(), None, geometry, False)
    rest = sources, weight, geometry, [True] * len(sources), True, False
    with tf32.allowed(dtype == "tf32"):
        y, *_ = cuda.fwd(*(small_cases.moved(v, device) for v in rest[:2]), None, geometry, False)
        dy = whole(exact)
        grads, dweight, _ = cuda.bwd(*(small_cases.moved(v, device) for v in (dy, None, None, None, None, *rest)))
    exact_grads, exact_dweight, _ = reference.bwd(dy.double(), None, None, None, None, *(double(v) for v in rest))
    found = [y, dweight, *(g.x for g in grads)]
    for ours, theirs in zip(found, [exact, exact_dweight, *(g.x for g in exact_grads)], strict=True):
        assert ours is not None
        assert theirs is not None
        assert torch.equal(ours.cpu(), theirs.to(kind))


@pytest.mark.parametrize("name", ["stride 2, two sources", "transposed 3d", "odd channels"])
def test_weights_may_have_any_strides(name: str, device: str) -> None:
    """They are packed value by value instead of through panels, with equal bits."""
    sources, weight, bias, geometry = small_cases.conv_inputs(small_cases.CONVS[name], torch.bfloat16)
    sources, weight, bias = (small_cases.moved(v, device) for v in (sources, weight, bias))
    strided = weight.movedim(0, -1).contiguous().movedim(-1, 0)
    assert not strided.is_contiguous()
    y, mean, var = cuda.fwd(sources, weight, bias, geometry, True)
    assert torch.equal(y, cuda.fwd(sources, strided, bias, geometry, True)[0])
    rest = y, mean, var, y, mean, sources
    needs = [True] * len(sources), True, True
    grads, dweight, _ = cuda.bwd(*rest, weight, geometry, *needs)
    strided_grads, strided_dweight, _ = cuda.bwd(*rest, strided, geometry, *needs)
    assert dweight is not None
    assert strided_dweight is not None
    assert torch.equal(dweight, strided_dweight)
    for grad, other in zip(grads, strided_grads, strict=True):
        assert grad.x is not None
        assert other.x is not None
        assert torch.equal(grad.x, other.x)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["2d", "odd channels"])
def test_weight_and_bias_may_begin_anywhere(name: str, dtype: torch.dtype, device: str) -> None:
    """At an address unaligned for vectors, with equal bits."""
    sources, weight, bias, geometry = small_cases.conv_inputs(small_cases.CONVS[name], dtype)
    sources, weight, bias = (small_cases.moved(v, device) for v in (sources, weight, bias))
    moved = [torch.cat([t.new_zeros(1), t.flatten()])[1:].view_as(t) for t in (weight, bias)]
    assert all(t.data_ptr() % 16 for t in moved)
    for ours, others in zip(
        cuda.fwd(sources, *moved, geometry, True), cuda.fwd(sources, weight, bias, geometry, True), strict=True
    ):
        assert ours is not None
        assert others is not None
        assert torch.equal(ours, others)


@pytest.mark.parametrize("older", [True, False])
def test_torchs_flags_choose_tf32(older: bool, device: str) -> None:
    sources, weight, _, geometry = small_cases.conv_inputs(small_cases.CONVS["2d"], torch.float32)
    exact, *_ = reference.fwd(double(sources), weight.double(), None, geometry, False)
    there, errors = [small_cases.moved(v, device) for v in (sources, weight)], []
    for yes in (False, True):
        with warnings.catch_warnings(), tf32.allowed(yes):
            warnings.simplefilter("error")
            if not older:  # torch refuses to read the older flag when both contradict
                torch.backends.cudnn.conv.fp32_precision = "ieee" if yes else "tf32"
            y, *_ = cuda.fwd(*there, None, geometry, False)
        errors.append(error(y.cpu(), exact).rms)
    exactly, roughly = errors if older else reversed(errors)
    assert exactly < 1e-6 < 1e-5 < roughly < 1e-3


def test_the_binding_has_the_layout_of_the_kernels() -> None:
    assert native_cuda.library().fi_conv_sizeof() == ctypes.sizeof(abi.CConv)


def test_an_empty_batch_has_zero_gradients(device: str) -> None:
    sources, weight, bias, geometry = small_cases.conv_inputs(small_cases.CONVS["2d"], torch.float32)
    empty = [small_cases.moved(s._replace(x=s.x[:0]), device) for s in sources]
    weight, bias = weight.to(device), bias.to(device)
    y, mean, _ = cuda.fwd(empty, weight, bias, geometry, True)
    assert y.shape == (0, 24, 9, 17)
    assert mean is not None
    assert mean.isnan().all()
    grads, dweight, dbias = cuda.bwd(y, mean, mean, y, mean, empty, weight, geometry, [True], True, True)
    assert dweight is not None
    assert dbias is not None
    assert not dweight.any()
    assert not dbias.any()
    assert grads[0].x is not None
    assert grads[0].x.shape == (0, 16, 9, 17)


def test_what_cannot_run_is_refused_in_a_sentence(device: str) -> None:
    sources, weight, _, geometry = small_cases.conv_inputs(small_cases.CONVS["2d"], torch.float32)
    sources, weight = small_cases.moved(sources, device), weight.to(device)
    assert cuda.why_not(sources, weight, geometry) is None
    assert cuda.why_not(sources, weight, geometry._replace(groups=2)) is None
    assert "one source, got 2 and groups=2" in str(cuda.why_not(sources * 2, weight, geometry._replace(groups=2)))
    assert "at most 2 sources, got 3" in str(cuda.why_not(sources * 3, weight, geometry))
    assert "stride=(8, 8)" in str(cuda.why_not(sources, weight, geometry._replace(stride=(8, 8))))
    assert "128 taps" in str(cuda.why_not(sources, weight.new_empty(1, 1, 12, 12), geometry))
    assert "float64" in str(cuda.why_not([s._replace(x=s.x.double()) for s in sources], weight, geometry))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_gradient_passes_where_the_activation_is_exactly_zero(dtype: torch.dtype, device: str) -> None:
    """As in torch's relu: a channel with zero scale and shift, and zeros in other channels."""
    x = torch.arange(-4, 4).repeat(2, 8, 5, 2).to(device, dtype)
    scale = torch.tensor([0.0, 1.0] * 4, device=device)
    there = Source(x, torch.zeros_like(scale), scale, torch.zeros_like(scale), relu=True)
    passes, ones = ((x > 0) & (scale.view(-1, 1, 1) > 0)).to(dtype), torch.ones_like(x)
    weight, geometry = torch.ones(8, 8, 1, 1, device=device, dtype=dtype), Geometry((1, 1), (0, 0), (1, 1), (0, 0))
    convolved = cuda.bwd(ones, None, None, None, None, [there], weight, geometry, [True], False, False)[0][0]
    for gradient, factor in ((activation.bwd(ones, [there], [True])[0], 1), (convolved, 8)):
        assert gradient.x is not None
        assert gradient.shift is not None
        assert torch.equal(gradient.x, factor * passes)
        assert torch.equal(gradient.shift, factor * passes.sum((0, 2, 3)).float())
