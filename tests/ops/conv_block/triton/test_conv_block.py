"""`conv_block` in Triton against the reference: every pass, dtype and kind of layer."""

from __future__ import annotations

import pytest
import torch

from fastinpaint.ops.activation import triton_launch as activation_launch
from fastinpaint.ops.conv_block import reference
from fastinpaint.ops.conv_block import triton as ours
from fastinpaint.ops.conv_block.triton import autotune, tiles
from fastinpaint.testing.rule import check_all, check_grads, double
from tests.ops.triton.cases import CASES, DEVICE, Case, inputs

OTHER_DTYPES = ["2d", "2d-concat", "2d-thin-first-layer", "2d-transposed", "3d-strided", "2d-large-mean"]
OTHER_DTYPES += ["2d-depthwise", "2d-grouped"]
EVERY = [(name, torch.float32) for name in CASES]
EVERY += [(name, dtype) for name in OTHER_DTYPES for dtype in (torch.bfloat16, torch.float16)]


@pytest.fixture(autouse=True)
def exact_float32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def run(case: Case, dtype: torch.dtype) -> None:
    """Check forward and backward of one case by the accuracy rule."""
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


def test_a_bias_needs_no_gradient_of_the_weight(monkeypatch):
    """Programs of wgrad's launch compute its sums, or else a separate launch, with equal bits."""
    monkeypatch.setattr(activation_launch, "BLOCK_ITEMS", 32)
    given = inputs(CASES["2d-thin-last-layer"], torch.float32)
    dy = torch.randn(ours.fwd(*given)[0].shape, generator=torch.Generator().manual_seed(9)).to(DEVICE)
    nothing, operands = (None,) * 4, (given.sources, given.weight, given.geometry, [False])
    _, dweight, with_weight = ours.bwd(dy, *nothing, *operands, True, True)
    _, nobody, alone = ours.bwd(dy, *nothing, *operands, False, True)
    assert dweight is not None
    assert nobody is None
    assert torch.equal(with_weight, alone)
    assert torch.allclose(alone, dy.sum((0, 2, 3)), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("wgrad", [tiles.WGRAD_TILES[0], tiles.MEASURED_ONLY["wgrad"][0]], ids=["model", "measured"])
@pytest.mark.parametrize("name", ["2d-concat", "2d-wide-output-in-two-blocks", "3d-dilated-dead-taps"])
def test_the_largest_tiles(name, wgrad, dtype, monkeypatch):
    """Tiles of 8 warps have epilogues in quarters. Flattened loops over taps were reported to miscompile there."""
    used = []

    def largest(available, work):
        tile = wgrad if work.splits_depth else available[0]
        used.append(tile._replace(k=max(tiles.MIN_K, tile.k * 2 // work.itemsize)))
        return used[-1]

    monkeypatch.setattr(autotune, "_chosen", {})
    monkeypatch.setenv("FASTINPAINT_TUNE", "0")
    monkeypatch.setattr(tiles, "best", largest)
    run(CASES[name], dtype)
    assert {(t.m, t.n, t.num_warps) for t in used} == {(128, 256, 8), (*wgrad[:2], 8)}
