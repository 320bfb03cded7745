"""Two runs of every op give the same bits; emulated runs use different schedules of blocks and warps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fastinpaint.ops.activation import cuda as activation
from fastinpaint.ops.batch_norm import cuda as batch_norm
from fastinpaint.ops.batch_norm.reference import Running
from fastinpaint.ops.conv_block import cuda
from fastinpaint.ops.types import Source
from fastinpaint.testing.rule import source
from tests.ops.cuda import small_cases, tf32
from tests.ops.cuda.schedules import same_bits

Results = list[Tensor]


CONVS = ["stride 2, two sources", "4 channels in, 5x5", "transposed 2d", "dilation 4, dead taps"]


@pytest.mark.parametrize("dtype", small_cases.DTYPES)
@pytest.mark.parametrize("name", CONVS)
def test_conv_block(name: str, dtype: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = small_cases.conv_inputs(small_cases.CONVS[name], small_cases.DTYPES[dtype])
    sources, weight, bias, geometry = (small_cases.moved(v, device) for v in inputs)

    def run() -> Results:
        y, mean, var = cuda.fwd(sources, weight, bias, geometry, True)
        needs = [True] * len(sources)
        grads, dweight, dbias = cuda.bwd(y, mean, var, y, mean, sources, weight, geometry, needs, True, True)
        return [y, mean, var, dweight, dbias, *(t for g in grads for t in g if t is not None)]

    with tf32.allowed(dtype == "tf32"):
        same_bits(run, monkeypatch)


def activations(dtype: torch.dtype, device: str) -> Results:
    generator = torch.Generator().manual_seed(0)
    sources = [source((2, c, 24, 25), dtype, generator, addend=c == 5) for c in (16, 5)]
    there: list[Source] = small_cases.moved(sources, device)
    a = activation.fwd(there)
    grads = activation.bwd(a, there, [True, True])
    given = [t for grad in grads for t in grad if t is not None]
    return [a, *given, *activation.batch_stats(a), activation.channel_sum(there[0])]


def batch_norms(dtype: torch.dtype, device: str) -> Results:
    mean, var, *old = torch.rand(6, 300, generator=torch.Generator().manual_seed(0)).to(device)
    weight, bias, *running = (v.to(dtype) for v in old)
    kept = Running(*(v.clone() for v in running), torch.tensor(4, device=device), None)
    scale, shift = batch_norm.fwd(mean, var, weight, bias, kept, 9, 1e-3)
    return [scale, shift, kept.mean, kept.var, *batch_norm.bwd(mean, var, weight, 1e-3, True)]


OTHERS = {"activation": activations, "batch_norm": batch_norms}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("name", OTHERS)
def test_the_other_ops(name: str, dtype: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    same_bits(lambda: OTHERS[name](small_cases.DTYPES[dtype], device), monkeypatch)
