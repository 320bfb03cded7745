"""`conv_block` in Triton against the reference: every pass, dtype and kind of layer."""

from __future__ import annotations

import pytest
import torch

from fastinpaint.ops.conv_block import reference
from fastinpaint.ops.conv_block import triton as ours
from fastinpaint.testing.rule import check_all, check_grads, double
from tests.triton.ops.cases import CASES, DEVICE, Case, inputs

OTHER_DTYPES = ["2d", "2d-concat", "2d-thin-first-layer", "2d-transposed", "3d-strided", "2d-large-mean"]
EVERY = [(name, torch.float32) for name in CASES]
EVERY += [(name, dtype) for name in OTHER_DTYPES for dtype in (torch.bfloat16, torch.float16)]


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def run(case: Case, dtype: torch.dtype) -> None:
    """Forward and backward of one case under the rule."""
    given = inputs(case, dtype)
    exact = double(tuple(given[:3]))
    wide = (*exact, *given[3:])
    got, plain, true = ours.fwd(*given), reference.fwd(*given), reference.fwd(*wide)
    check_all(["y", "mean", "var"], got, plain, true)

    generator = torch.Generator().manual_seed(9)
    dy = torch.randn(plain[0].shape, generator=generator).to(DEVICE, dtype)
    vectors = [torch.randn(dy.shape[1], generator=generator).to(DEVICE) * 3 for _ in range(2)]
    dmean, dvar = vectors if case.stats else (None, None)
    y, mean = plain[0], plain[1]
    needs = [True] * len(given.sources)
    arguments = (dy, dmean, dvar, y, mean, given.sources, given.weight, given.geometry, needs, True, case.bias)
    got, plain = ours.bwd(*arguments), reference.bwd(*arguments)
    true = reference.bwd(*map(double, arguments[:7]), *arguments[7:])
    check_grads(got[0], plain[0], true[0])
    check_all(["dweight", "dbias"], got[1:], plain[1:], true[1:])
    assert got[1].is_contiguous()


@pytest.mark.parametrize(("name", "dtype"), EVERY, ids=str)
def test_every_pass(name, dtype):
    run(CASES[name], dtype)
