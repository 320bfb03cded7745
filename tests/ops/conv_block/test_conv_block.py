"""`conv_block`: equations, gradients, registration, contract."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from fastinpaint.ops.conv_block import batch_stats, conv_block
from fastinpaint.ops.types import Source
from tests.ops.common import BACKENDS, leaf

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


def everything(backend: str, **options: object):
    """A call with two sources, one of them with all parts, and its leaves."""
    leaves = [
        leaf(2, 3, 5, 4),
        leaf(3),
        leaf(3),
        leaf(3),
        leaf(2, 3, 5, 4),
        leaf(2, 2, 5, 4),
        leaf(4, 5, 3, 3),
        leaf(4),
    ]

    def call(x, mean, scale, shift, addend, second, weight, bias):
        sources = [Source(x, mean, scale, shift, True, addend), second]
        return conv_block(sources, weight, bias, padding=1, stats=True, backend=backend, **options)

    return call, leaves


def test_equations_of_the_docstring(backend: str) -> None:
    call, (x, mean, scale, shift, addend, second, weight, bias) = everything(backend)
    y, y_mean, y_var = call(x, mean, scale, shift, addend, second, weight, bias)
    z = (x - mean.view(1, 3, 1, 1)) * scale.view(1, 3, 1, 1) + shift.view(1, 3, 1, 1)
    a = torch.cat([torch.where(z > 0, z, 0 * z) + addend, second], 1)
    expected = torch.zeros_like(y)
    padded = F.pad(a, (1, 1, 1, 1))
    for i in range(3):
        for j in range(3):
            expected = expected + torch.einsum("nchw,oc->nohw", padded[:, :, i : i + 5, j : j + 4], weight[:, :, i, j])
    expected = expected + bias.view(1, 4, 1, 1)
    m = 2 * 5 * 4
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(y_mean, y.sum((0, 2, 3)) / m)
    torch.testing.assert_close(y_var, ((y - y_mean.view(1, 4, 1, 1)) ** 2).sum((0, 2, 3)) / m)


def test_gradients(backend: str) -> None:
    call, leaves = everything(backend)
    assert gradcheck(call, leaves)


def test_gradients_of_gradients(backend: str) -> None:
    call, leaves = everything(backend)
    assert gradgradcheck(call, leaves, fast_mode=True)


@pytest.mark.parametrize(
    ("space", "weight", "options"),
    [
        pytest.param((4, 5, 6), (3, 2, 3, 3, 3), {"stride": (1, 2, 2), "padding": 1}, id="3d-strided"),
        pytest.param((4, 5, 6), (3, 2, 1, 3, 3), {"padding": (0, 1, 1)}, id="3d-flat"),
        pytest.param((9, 8), (3, 2, 3, 3), {"dilation": 4, "padding": 4}, id="2d-dilated"),
        pytest.param((4, 5), (2, 3, 4, 4), {"transposed": True, "stride": 2, "padding": 1}, id="2d-transposed"),
        pytest.param(
            (3, 4, 5),
            (2, 3, 4, 4, 4),
            {"transposed": True, "stride": (1, 2, 2), "padding": 1, "output_padding": (0, 1, 0)},
            id="3d-transposed",
        ),
        pytest.param(
            (4, 4, 5),
            (2, 3, 4, 4, 4),
            {"transposed": True, "stride": (1, 2, 2), "padding": 1, "output_padding": (-1, 0, -3)},
            id="3d-frame-left-off",
        ),
        pytest.param((4, 5), (4, 1, 3, 3), {"groups": 2, "padding": 1}, id="2d-grouped"),
    ],
)
def test_gradients_of_geometries(
    backend: str, space: tuple[int, ...], weight: tuple[int, ...], options: dict[str, object]
) -> None:
    leaves = [leaf(2, 2, *space), leaf(2), leaf(2), leaf(2), leaf(*weight)]

    def call(x, mean, scale, shift, weight):
        source = Source(x, mean, scale, shift, True)
        return conv_block(source, weight, stats=True, backend=backend, **options)

    assert gradcheck(call, leaves, fast_mode=True)


def test_what_needs_no_gradient_has_none(backend: str) -> None:
    x, second, weight = leaf(1, 2, 4, 4), leaf(1, 1, 4, 4), leaf(3, 3, 3, 3)
    y = conv_block([x.detach(), second], weight.detach(), backend=backend)
    y.sum().backward()
    assert second.grad is not None
    assert x.grad is None
    assert weight.grad is None


def test_one_statistic_alone_has_a_gradient(backend: str) -> None:
    x, weight = leaf(2, 2, 4, 4), leaf(3, 2, 3, 3)
    assert gradcheck(lambda x, w: conv_block(x, w, stats=True, backend=backend)[1], (x, weight), fast_mode=True)
    assert gradcheck(lambda x, w: conv_block(x, w, stats=True, backend=backend)[2], (x, weight), fast_mode=True)
    assert gradcheck(lambda x: batch_stats(x, backend=backend), (x,), fast_mode=True)
    assert gradgradcheck(lambda x: batch_stats(x, backend=backend), (x,), fast_mode=True)


def test_keeps_raw_maps_only(backend: str) -> None:
    x, other, weight = (
        t.float().detach().requires_grad_() for t in (leaf(2, 4, 8, 8), leaf(2, 4, 8, 8), leaf(6, 8, 3, 3))
    )
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    vectors = [torch.ones(4) for _ in range(3)]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        y, mean, _ = conv_block(
            [Source(x, *vectors, True), Source(other, relu=True)], weight, stats=True, backend=backend
        )
    own = [x, other, weight, y, mean, *vectors]
    assert sum(kept.values()) == sum(t.untyped_storage().nbytes() for t in own)


def test_registered_operators(backend: str) -> None:
    _, leaves = everything(backend)
    x, mean, scale, shift, addend, second, weight, bias = (t.detach() for t in leaves)
    flat, geometry = (
        [x, mean, scale, shift, addend, second, None, None, None, None],
        ([1, 1], [1, 1], [1, 1], [0, 0], False, 1),
    )
    ops = torch.ops.fastinpaint
    forward = (flat, [True, False], weight, bias, True, backend, *geometry)
    y, y_mean, _ = ops.conv_block_fwd(*forward)
    backward = (y, y_mean, y_mean, y, y_mean, flat, [True, False], weight, [True, True], True, True, backend, *geometry)
    for operator, arguments in (
        (ops.conv_block_fwd.default, forward),
        (ops.conv_block_bwd.default, backward),
        (ops.batch_stats.default, (x, backend)),
    ):
        outcome = torch.library.opcheck(operator, arguments)
        assert set(outcome.values()) == {"SUCCESS"}


def test_compiles_whole_with_backward(backend: str) -> None:
    call, leaves = everything(backend)

    def loss(*leaves: Tensor) -> Tensor:
        y, mean, var = call(*leaves)
        return (y.square() * mean.view(1, 4, 1, 1)).sum() + var.square().sum()

    compiled = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(*leaves), leaves)
    for ours, expected in zip(compiled, torch.autograd.grad(loss(*leaves), leaves), strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)


def test_autocast_is_as_torchs_convolution(backend: str) -> None:
    x, weight, bias = (leaf(*s, dtype=torch.float32) for s in ((2, 4, 6, 6), (3, 4, 3, 3), (3,)))
    with torch.autocast("cpu", torch.bfloat16):
        y, mean, var = conv_block(x, weight, bias, padding=1, stats=True, backend=backend)
        expected = F.conv2d(x, weight, bias, padding=1)
        wide = conv_block(x.double(), weight.double(), padding=1, backend=backend)
    assert (y.dtype, mean.dtype, var.dtype, wide.dtype) == (torch.bfloat16, *[torch.float32] * 2, torch.float64)
    torch.testing.assert_close(y, expected, rtol=1e-2, atol=1e-2)
    grads = torch.autograd.grad(y.float().sum() + var.sum(), (x, weight, bias))
    assert [g.dtype for g in grads] == [torch.float32] * 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_pass_through(backend: str, bad: float) -> None:
    x, weight = torch.randn(1, 2, 6, 6), torch.randn(3, 2, 3, 3)
    x[0, 1, 2, 3] = bad
    y, mean, _ = conv_block(Source(x, relu=True), weight, padding=1, stats=True, backend=backend)
    expected = F.conv2d(x.relu(), weight, padding=1)
    torch.testing.assert_close(y.isfinite(), expected.isfinite())
    torch.testing.assert_close(y, expected, equal_nan=True)
    assert mean.isfinite().all() == expected.isfinite().all()


@pytest.mark.parametrize("shape", [(0, 2, 5, 5), (1, 2, 3, 3), (2, 2, 1, 7)], ids=str)
def test_sizes_zero_and_one(backend: str, shape: tuple[int, ...]) -> None:
    x, weight, bias = leaf(*shape), leaf(4, 2, 3, 3), leaf(4)
    y = (
        conv_block(x, weight, bias, padding=(1, 0), backend=backend)
        if shape[2] == 1
        else conv_block(x, weight, bias, backend=backend)
    )
    expected = F.conv2d(x, weight, bias, padding=(1, 0) if shape[2] == 1 else 0)
    torch.testing.assert_close(y, expected)
    for ours, theirs in zip(
        torch.autograd.grad(y.sum(), (x, weight, bias)),
        torch.autograd.grad(expected.sum(), (x, weight, bias)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_same_bits_twice(backend: str) -> None:
    x, weight = leaf(2, 8, 16, 16, dtype=torch.float32), leaf(8, 8, 3, 3, dtype=torch.float32)

    def run() -> list[Tensor]:
        y, mean, var = conv_block(Source(x, relu=True), weight, padding=1, stats=True, backend=backend)
        return [y, mean, var, *torch.autograd.grad((y * y).sum() + var.sum(), (x, weight))]

    for first, second in zip(run(), run(), strict=True):
        assert torch.equal(first, second)


WRONG = {
    "no source": ({"sources": []}, ValueError, "sources must hold at least one map, got none"),
    "dimensions": ({"sources": torch.zeros(2, 3)}, ValueError, r"sources\[0\].x must be \[N, C, H, W\]"),
    "no tensor": ({"sources": [torch.zeros(1, 3, 4, 4), 3]}, TypeError, r"sources\[1\].x must be a tensor, got int"),
    "numpy": ({"sources": torch.zeros(1, 3, 4, 4).numpy()}, TypeError, r"sources\[0\].x must be a tensor, got ndarray"),
    "no weight": ({"weight": None}, TypeError, "weight must be a tensor, got NoneType"),
    "sparse": ({"weight": torch.zeros(8, 3, 3, 3).to_sparse()}, TypeError, "weight must be a dense tensor, got one of"),
    "half a stride": ({"stride": 1.5}, TypeError, "stride must be a whole number or several, got 1.5"),
    "dtype": ({"sources": torch.zeros(1, 3, 4, 4, dtype=torch.int32)}, TypeError, "must be float64, float32"),
    "second source": (
        {"sources": [torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 5)]},
        ValueError,
        r"sources\[1\].x must equal sources\[0\].x \(1, 2, 4, 4\) but for the channels, got \(1, 1, 4, 5\)",
    ),
    "mixed dtypes": (
        {"sources": [torch.zeros(1, 2, 4, 4), torch.zeros(1, 1, 4, 4).double()]},
        TypeError,
        r"sources\[1\].x must be torch.float32 on cpu",
    ),
    "half a norm": (
        {"sources": Source(torch.zeros(1, 3, 4, 4), torch.zeros(3))},
        ValueError,
        "must have all of mean, scale and shift or none, got only mean",
    ),
    "vector": (
        {"sources": Source(torch.zeros(1, 3, 4, 4), *[torch.zeros(2)] * 3)},
        ValueError,
        r"mean must be \[3\], one a channel, got \(2,\)",
    ),
    "addend": (
        {"sources": Source(torch.zeros(1, 3, 4, 4), addend=torch.zeros(1, 3, 4, 5))},
        ValueError,
        r"addend must be \(1, 3, 4, 4\), .* got \(1, 3, 4, 5\)",
    ),
    "channels": ({"weight": torch.zeros(8, 4, 3, 3)}, ValueError, "weight.shape.1. must equal the sources' 3 channels"),
    "weight dtype": ({"weight": torch.zeros(8, 3, 3, 3).double()}, TypeError, "weight must be torch.float32 on cpu"),
    "weight dimensions": ({"weight": torch.zeros(8, 3, 3)}, ValueError, "weight must have 4 dimensions"),
    "bias": ({"bias": torch.zeros(3)}, ValueError, r"bias must be \[8\], one a channel out, got \(3,\)"),
    "stride": ({"stride": 0}, ValueError, r"stride must be at least 1 on every axis, got \(0, 0\)"),
    "padding": ({"padding": (1, 1, 1)}, ValueError, "padding must have 2 entries"),
    "groups": ({"groups": 2}, ValueError, "must equal the sources' 3 channels / 2 groups"),
    "output padding": ({"output_padding": 1}, ValueError, "output_padding is for transposed convolutions"),
    "rows left off": (
        {"weight": torch.zeros(3, 8, 3, 3), "transposed": True, "output_padding": (0, -6)},
        ValueError,
        r"the kernel must fit the padded input, .* output_padding \(0, -6\)",
    ),
    "groups of a fraction": ({"groups": 1.0}, TypeError, "groups must be a whole number, got 1.0"),
    "kernel": ({"weight": torch.zeros(8, 3, 9, 9)}, ValueError, "the kernel must fit the padded input"),
    "backend": ({"backend": "gpu"}, ValueError, "backend must be one of auto, reference, cpu"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_get_one_sentence(backend: str, case: str) -> None:
    changed, kind, sentence = WRONG[case]
    arguments = {"sources": torch.zeros(1, 3, 4, 4), "weight": torch.zeros(8, 3, 3, 3), "backend": backend, **changed}
    with pytest.raises(kind, match=sentence) as caught:
        conv_block(**arguments)
    assert str(caught.value).endswith(".")
    assert "\n" not in str(caught.value)
