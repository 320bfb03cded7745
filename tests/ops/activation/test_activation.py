"""`activation`: equations, gradients, registration."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from fastinpaint.ops.activation import activation
from fastinpaint.ops.types import Source
from tests.ops.common import BACKENDS, leaf

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


def mixed(backend: str):
    """A normalised and clamped source with an addend, one as it stands, a clamped one."""
    leaves = [leaf(2, 3, 4, 5), leaf(3), leaf(3), leaf(3), leaf(2, 3, 4, 5), leaf(2, 2, 4, 5), leaf(2, 1, 4, 5)]

    def call(x, mean, scale, shift, addend, second, third):
        sources = [Source(x, mean, scale, shift, True, addend), Source(second), Source(third, relu=True)]
        return activation(sources, backend=backend)

    return call, leaves


def test_equation_of_the_docstring(backend: str) -> None:
    call, (x, mean, scale, shift, addend, second, third) = mixed(backend)
    z = (x - mean.view(1, 3, 1, 1)) * scale.view(1, 3, 1, 1) + shift.view(1, 3, 1, 1)
    expected = torch.cat([z * (z > 0) + addend, second, third * (third > 0)], 1)
    torch.testing.assert_close(call(x, mean, scale, shift, addend, second, third), expected)


def test_gradients(backend: str) -> None:
    call, leaves = mixed(backend)
    assert gradcheck(call, leaves)
    assert gradgradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize("wanted", [(0,), (4,), (5,), (1, 2), (6, 4)], ids=str)
def test_gradients_of_some(backend: str, wanted: tuple[int, ...]) -> None:
    call, leaves = mixed(backend)
    leaves = [t if i in wanted else t.detach() for i, t in enumerate(leaves)]
    assert gradcheck(call, leaves, fast_mode=True)


def test_a_bare_source_is_copied(backend: str) -> None:
    x = torch.randn(1, 2, 3, 3)
    a = activation(Source(x), backend=backend)
    assert torch.equal(a, x)
    assert a.data_ptr() != x.data_ptr()


def test_an_addend_and_a_bare_map_are_not_kept(backend: str) -> None:
    call, leaves = mixed(backend)
    kept: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        kept.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        call(*leaves)
    x, mean, scale, shift, _addend, _bare, third = (t.untyped_storage().data_ptr() for t in leaves)
    assert kept == {x, mean, scale, shift, third}


def test_registered_operators(backend: str) -> None:
    _, leaves = mixed(backend)
    x, mean, scale, shift, addend, second, third = (t.detach() for t in leaves)
    flat = [x, mean, scale, shift, addend, second, *[None] * 4, third, *[None] * 4]
    relus, ops = [True, False, True], torch.ops.fastinpaint
    a = ops.activation_fwd(flat, relus, backend)
    for operator, arguments in (
        (ops.activation_fwd.default, (flat, relus, backend)),
        (ops.activation_bwd.default, (a, flat, relus, [True, False, True], backend)),
    ):
        assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}


def test_large_mean_costs_no_precision(backend: str) -> None:
    """mean/std = 1e3: the mean is taken off before anything is multiplied."""
    x = (torch.randn(2, 4, 8, 8, dtype=torch.float64) + 1e3).float()
    mean, scale, shift = x.mean((0, 2, 3)), torch.rand(4) + 0.5, torch.randn(4)
    exact = activation(Source(x.double(), mean.double(), scale.double(), shift.double()), backend="reference")
    ours = activation(Source(x, mean, scale, shift), backend=backend)
    folded = x * scale.view(1, 4, 1, 1) + (shift - mean * scale).view(1, 4, 1, 1)
    assert (ours - exact).abs().max() < (folded - exact).abs().max() / 20
    assert (ours - exact).abs().max() < 1e-6
