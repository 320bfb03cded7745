"""Every CUDA kernel against float64, by the rule, in every dtype; equal inputs give equal bits."""

from __future__ import annotations

import ctypes

import pytest
import torch

from fastinpaint.ops import native_cuda
from fastinpaint.ops.conv_block import cuda, launch
from tests.cuda import small_cases


@pytest.mark.parametrize("dtype", small_cases.DTYPES)
@pytest.mark.parametrize("name", [*small_cases.OTHERS, *small_cases.CONVS])
def test_kernel_keeps_the_rule(name: str, dtype: str, device: str) -> None:
    small_cases.run(name, small_cases.DTYPES[dtype], device)


@pytest.mark.parametrize("name", ["stride 2, two sources", "4 channels in, 5x5", "transposed 2d"])
def test_two_runs_give_the_same_bits(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    conv, results = small_cases.CONVS[name], []
    inputs = [small_cases.moved(v, device) for v in small_cases.conv_inputs(conv, torch.bfloat16)]
    sources, weight, bias, geometry = inputs
    for seed in ("2", "7"):  # another schedule of blocks and warps where the kernels are emulated
        monkeypatch.setenv("FI_SEED", seed)
        y, mean, var = cuda.fwd(sources, weight, bias, geometry, True)
        needs = [True] * len(sources)
        grads, dweight, dbias = cuda.bwd(y, mean, var, y, mean, sources, weight, geometry, needs, True, True)
        results.append([y, mean, var, dweight, dbias, *(t for g in grads for t in g if t is not None)])
    for first, second in zip(*results, strict=True):
        assert torch.equal(first, second)


def test_the_binding_has_the_layout_of_the_kernels() -> None:
    assert native_cuda.library().fi_conv_sizeof() == ctypes.sizeof(launch.CConv)


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
    assert "groups=2" in str(cuda.why_not(sources, weight, geometry._replace(groups=2)))
    assert "at most 2 sources, got 3" in str(cuda.why_not(sources * 3, weight, geometry))
    assert "stride=(8, 8)" in str(cuda.why_not(sources, weight, geometry._replace(stride=(8, 8))))
    assert "128 taps" in str(cuda.why_not(sources, weight.new_empty(1, 1, 12, 12), geometry))
    assert "float64" in str(cuda.why_not([s._replace(x=s.x.double()) for s in sources], weight, geometry))
