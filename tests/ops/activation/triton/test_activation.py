"""`activation` and batch statistics in Triton against the reference, interpreted."""

from __future__ import annotations

import pytest
import torch

from fastinpaint.ops.activation import reference
from fastinpaint.ops.activation import triton as ours
from fastinpaint.ops.conv_block import reference as conv_reference
from fastinpaint.testing import interpreter
from fastinpaint.testing.rule import check, check_all, check_grads, double
from tests.ops.triton.cases import DEVICE, source

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SOURCES = {
    "plain": [{"affine": False, "relu": False}],
    "bn-relu": [{}],
    "bn-relu-addend": [{"addend": True}],
    "relu-only": [{"affine": False}],
    "concat": [{}, {"relu": False, "addend": True}, {"affine": False, "relu": False}],
    "contiguous": [{"channels_last": False}],
    "large-mean": [{"mean": 1e3}],
}
SHAPES = {"video": (2, 5, 3, 4, 3), "frames": (3, 16, 5, 7), "one": (1, 1, 1, 1, 1), "empty": (0, 4, 2, 3)}


def case(kind: str, shape: str, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(1)
    sources = [source(SHAPES[shape], dtype, generator, **options) for options in SOURCES[kind]]
    total = sum(s.x.shape[1] for s in sources)
    da = torch.randn(SHAPES[shape][0], total, *SHAPES[shape][2:], generator=generator).to(DEVICE, dtype)
    return sources, da


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("kind", SOURCES)
def test_forward_and_backward(kind, dtype):
    sources, da = case(kind, "video", dtype)
    needs = [True] * len(sources)
    check("a", ours.fwd(sources), reference.fwd(sources), reference.fwd(double(sources)))
    got = ours.bwd(da, sources, needs)
    check_grads(got, reference.bwd(da, sources, needs), reference.bwd(da.double(), double(sources), needs))


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes(shape):
    sources, da = case("concat", shape, torch.float32)
    check("a", ours.fwd(sources), reference.fwd(sources), reference.fwd(double(sources)))
    needs = [True, False, True]
    got = ours.bwd(da, sources, needs)
    check_grads(got, reference.bwd(da, sources, needs), reference.bwd(da.double(), double(sources), needs))


def test_a_second_program_walks_the_rest_of_the_rows(monkeypatch):
    from fastinpaint.ops.activation import triton_launch

    monkeypatch.setattr(triton_launch, "BLOCK_ITEMS", 32)
    monkeypatch.setattr(triton_launch, "MAX_PROGRAMS", 4)
    sources, da = case("bn-relu-addend", "video", torch.float32)
    assert triton_launch.row_tiles(72, 5) == (4, 8, 1, 4, 20)
    got = ours.bwd(da, sources, [True])
    check_grads(got, reference.bwd(da, sources, [True]), reference.bwd(da.double(), double(sources), [True]))
    y = sources[0].x
    check_all(["mean", "var"], ours.batch_stats(y), *map(conv_reference.batch_stats, (y, y.double())))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("mean", [0.0, 1e3])
def test_batch_statistics(dtype, mean):
    y = source(SHAPES["frames"], dtype, torch.Generator().manual_seed(2), mean=mean).x
    check_all(["mean", "var"], ours.batch_stats(y), *map(conv_reference.batch_stats, (y, y.double())))


def test_batch_statistics_of_nothing_are_nan():
    mean, var = ours.batch_stats(torch.empty(0, 4, 2, 3, device=DEVICE))
    assert mean.isnan().all()
    assert var.isnan().all()


def test_results_share_no_memory_and_are_dense_channels_last():
    sources, da = case("bn-relu-addend", "video", torch.float32)
    da = da.contiguous(memory_format=torch.channels_last_3d)
    (grad,) = ours.bwd(da, sources, [True])
    for result in (ours.fwd(sources), grad.x, grad.addend):
        assert result.is_contiguous(memory_format=torch.channels_last_3d)
    assert grad.addend.data_ptr() != da.data_ptr()
    assert torch.equal(grad.addend, da)


def test_nan_and_infinity_pass_as_in_torch():
    sources, da = case("bn-relu", "video", torch.float32)
    sources[0].x[0, 0, 0, 0, :2] = torch.tensor([float("nan"), float("inf")])
    da[0, 0, 0, 0, 0] = 1.0
    got, expected = ours.fwd(sources), reference.fwd(sources)
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(got.isinf(), expected.isinf())
    assert torch.equal(ours.bwd(da, sources, [True])[0].x.isnan(), reference.bwd(da, sources, [True])[0].x.isnan())


def test_the_same_bits_in_any_order_of_programs(monkeypatch):
    from fastinpaint.ops.activation import triton_launch

    monkeypatch.setattr(triton_launch, "BLOCK_ITEMS", 32)
    sources, da = case("bn-relu", "video", torch.float32)
    results = []
    for seed in (1, 2):
        with interpreter.settings(seed=seed):
            results.append((*ours.bwd(da, sources, [True])[0][:4], *ours.batch_stats(sources[0].x)))
    assert all(map(torch.equal, *results))


def test_why_not_names_what_came():
    x = torch.zeros(1, 1, 2, 2, device=DEVICE)
    (plain,) = (source(x.shape, torch.float32, torch.Generator()),)
    assert ours.why_not([plain]) is None
    assert "float64" in ours.why_not([plain._replace(x=x.double())])
    assert "3 axes" in ours.why_not([plain._replace(x=x[0])])
