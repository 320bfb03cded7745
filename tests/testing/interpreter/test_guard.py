"""The checked interpreter finds invalid accesses and races, and computes bfloat16 as a GPU does."""

from __future__ import annotations

import pytest
import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError

from fastinpaint.testing import interpreter


@triton.jit
def copy_kernel(x, out, n, BLOCK: tl.constexpr, MASKED: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    if MASKED:
        tl.store(out + o, tl.load(x + o, mask=o < n, other=0.0), mask=o < n)
    else:
        tl.store(out + o, tl.load(x + o), mask=o < n)


@triton.jit
def sum_kernel(x, out, n, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    tl.store(out, tl.sum(tl.load(x + o, mask=o < n)))


@triton.jit
def accumulate_kernel(out, BLOCK: tl.constexpr, ATOMIC: tl.constexpr):
    o = tl.arange(0, BLOCK)
    if ATOMIC:
        tl.atomic_add(out + o, o * 0 + 1.0)
    else:
        tl.store(out + o, tl.load(out + o) + 1)


@triton.jit
def neighbour_kernel(x, BLOCK: tl.constexpr):
    o = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    left = tl.load(x + o - 1, mask=o > 0, other=0.0)
    tl.store(x + o, left)


@triton.jit
def order_kernel(out, turn):
    i = tl.atomic_add(turn, 1)
    tl.store(out + tl.program_id(0), i)


@triton.jit
def arithmetic_kernel(x, y, added, multiplied, compared, summed, cast, BLOCK: tl.constexpr):
    o = tl.arange(0, BLOCK)
    b_x, b_y = tl.load(x + o), tl.load(y + o)
    tl.store(added + o, b_x + b_y)
    tl.store(multiplied + o, b_x * b_y)
    tl.store(compared + o, (b_x > b_y).to(tl.int32))
    tl.store(summed, tl.sum(b_x))
    tl.store(cast + o, (b_x.to(tl.float32) * 1.2345).to(tl.bfloat16))


@triton.jit
def dot_kernel(x, y, out, N: tl.constexpr, PRECISION: tl.constexpr):
    o = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(out + o, tl.dot(tl.load(x + o), tl.load(y + o), input_precision=PRECISION))


def test_a_load_past_the_end_is_found():
    with pytest.raises(InterpreterError, match=r"OutOfBounds.*load of 4 bytes.*240 bytes from the start"):
        copy_kernel[(1,)](torch.zeros(60), torch.zeros(60), 60, 64, False)


def test_a_load_outside_a_view_is_found():
    whole = torch.zeros(128)
    with pytest.raises(InterpreterError, match="OutOfBounds"):
        copy_kernel[(1,)](whole[:60], torch.zeros(64), 64, 64, True)


def test_masked_lanes_may_point_anywhere():
    x, out = torch.randn(60), torch.empty(60)
    copy_kernel[(1,)](x, out, 60, 64, True)
    assert torch.equal(out, x)


def test_masked_lanes_without_other_are_poisoned():
    out = torch.zeros(1)
    sum_kernel[(1,)](torch.ones(60), out, 60, 64)
    assert out.isnan().all()
    with interpreter.settings(poison=False):
        sum_kernel[(1,)](torch.ones(60), out, 60, 64)
    assert out.item() == 60


def test_stores_of_two_programs_race_unless_atomic():
    with pytest.raises(InterpreterError, match="Race"):
        accumulate_kernel[(2,)](torch.zeros(16), 16, False)
    out = torch.zeros(16)
    accumulate_kernel[(2,)](out, 16, True)
    assert (out == 2).all()


@pytest.mark.parametrize("seed", range(4))
def test_a_load_of_what_another_program_stores_races_in_any_order(seed):
    with interpreter.settings(seed=seed), pytest.raises(InterpreterError, match="Race"):
        neighbour_kernel[(2,)](torch.zeros(32), 16)


def test_programs_run_shuffled_by_the_seed():
    orders = []
    for seed in (1, 2, 2):
        out, turn = torch.zeros(16, dtype=torch.int32), torch.zeros(1, dtype=torch.int32)
        with interpreter.settings(seed=seed):
            order_kernel[(16,)](out, turn)
        assert sorted(out.tolist()) == list(range(16))
        orders.append(out.tolist())
    assert orders[0] != orders[1] == orders[2] != list(range(16))


def test_launches_are_recorded():
    with interpreter.launches() as names:
        copy_kernel[(1,)](torch.zeros(16), torch.zeros(16), 16, 16, True)
    assert names == ["copy_kernel"]


def test_bfloat16_computes_as_torch_does():
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(64, generator=generator).bfloat16() for _ in range(2))
    added, multiplied, cast = (torch.empty(64, dtype=torch.bfloat16) for _ in range(3))
    compared, summed = torch.empty(64, dtype=torch.int32), torch.empty(1, dtype=torch.bfloat16)
    arithmetic_kernel[(1,)](x, y, added, multiplied, compared, summed, cast, 64)
    assert torch.equal(added, x + y)
    assert torch.equal(multiplied, x * y)
    assert torch.equal(compared.bool(), x > y)
    assert torch.equal(summed[0], x.float().sum().bfloat16())
    assert torch.equal(cast, (x.float() * 1.2345).bfloat16())


@pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.bfloat16, "ieee"), (torch.float32, "ieee"), (torch.float32, "tf32")]
)
def test_products_have_the_precision_asked_for(dtype, precision):
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(16, 16, generator=generator).to(dtype) for _ in range(2))
    out = torch.empty(16, 16)
    dot_kernel[(1,)](x, y, out, 16, precision)
    error = (out.double() - x.double() @ y.double()).abs().max().item()
    assert (1e-4 < error < 1e-2) if precision == "tf32" else error < 5e-6
