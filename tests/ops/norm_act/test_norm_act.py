"""`norm_act`: equations, gradients, registration, and the CPU's kernels by the 2x rule."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.nn import functional as F

from fastinpaint.ops.dispatch import native
from fastinpaint.ops.norm_act import ACTS, Act, Form, autograd, reference
from fastinpaint.ops.norm_act.autograd import Call, NormAct
from fastinpaint.testing import rule

PARAMETERS = {"leaky_relu": 0.01, "elu": 1.3, "softplus": 1.5}
NORMS = ("none", "batch", "frozen", "instance", "group")
EPS = 1e-5
NAMES = ("a", "dx", "dweight", "dbias", "daddend", "dslope")
BACKENDS = ("reference", *(["cpu"] if native.why_not("cpu") is None else []))
cpu_only = pytest.mark.skipif(native.why_not("cpu") is not None, reason=str(native.why_not("cpu")))


def act_of(kind: str) -> Act:
    return Act(kind, PARAMETERS.get(kind, 0.0))


def form_of(act: Act, norm: str) -> Form:
    return Form(act, EPS, 2 if norm == "group" else 0, norm in ("batch", "instance", "group"))


def statistics(x: Tensor, norm: str) -> tuple[Tensor | None, Tensor | None]:
    if norm == "none":
        return None, None
    if norm == "frozen":
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        return torch.full((x.shape[1],), 0.25, dtype=wide), torch.full((x.shape[1],), 1.75, dtype=wide)
    return reference.stats(x.detach(), norm in ("instance", "group"), 2 if norm == "group" else 0)


def apply(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    addend: Tensor | None,
    slope: Tensor | None,
    act: Act,
    norm: str,
    backend: str,
) -> Tensor:
    form = form_of(act, norm)
    call = Call(form, backend, autograd.module_of(x, form, backend), *statistics(x, norm), x, addend, None)
    return NormAct.apply(call, x, weight, bias, addend, slope, None)


TORCH_ACTS = {
    "none": lambda z: z,
    "relu": F.relu,
    "relu6": F.relu6,
    "leaky_relu": lambda z: F.leaky_relu(z, 0.01),
    "elu": lambda z: F.elu(z, 1.3),
    "silu": F.silu,
    "hardswish": F.hardswish,
    "hardsigmoid": lambda z: F.hardtanh(z + 3, 0, 6) / 6,  # in float64 torch's own has a factor 1 / 6 in float32
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "gelu_tanh": lambda z: F.gelu(z, approximate="tanh"),
    "softplus": lambda z: F.softplus(z, 1.5),
    "mish": F.mish,
}


def in_torch(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    addend: Tensor | None,
    slope: Tensor | None,
    act: Act,
    norm: str,
) -> Tensor:
    """The equivalent layers of torch."""
    z = x
    if norm == "batch":
        z = F.batch_norm(x, None, None, weight, bias, True, 0.1, EPS)
    elif norm == "frozen":
        running = [t if t is None else t.to(x.dtype) for t in statistics(x, norm)]
        z = F.batch_norm(x, *running, weight, bias, False, 0.1, EPS)
    elif norm == "instance":
        z = F.instance_norm(x, None, None, weight, bias, True, 0.1, EPS)
    elif norm == "group":
        z = F.group_norm(x, 2, weight, bias, EPS)
    z = z if addend is None else z + addend
    return TORCH_ACTS[act.kind](z) if slope is None else F.prelu(z, slope)


def operands(
    shape: tuple[int, ...], norm: str, addend: bool, dtype: torch.dtype, mean: float = 0.0, kind: str = ""
) -> list[Tensor | None]:
    """x, weight, bias, addend and, of prelu, a slope for each channel, two of them negative."""
    x, extra = torch.randn(shape) * 2 + mean, torch.randn(shape)
    vectors = [None, None] if norm == "none" else [torch.randn(shape[1]), torch.randn(shape[1])]
    slope = torch.linspace(-0.5, 1.5, shape[1]) if kind == "prelu" else None
    return [t if t is None else t.to(dtype) for t in (x, *vectors, extra if addend else None, slope)]


@pytest.mark.parametrize("addend", [False, True], ids=["alone", "sum"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ACTS)
def test_is_torchs_layers_and_their_gradients(kind: str, norm: str, addend: bool) -> None:
    given = operands((3, 4, 3, 5), norm, addend, torch.float64, kind=kind)
    results = []
    for backend in ("torch", *BACKENDS):
        leaves = [t if t is None else t.clone().requires_grad_() for t in given]
        act = act_of(kind)
        a = in_torch(*leaves, act, norm) if backend == "torch" else apply(*leaves, act, norm, backend)
        torch.manual_seed(1)
        a.backward(torch.randn(a.shape, dtype=a.dtype))
        results.append([a, *(t.grad for t in leaves if t is not None)])
    for found in results[1:]:
        for ours, theirs in zip(found, results[0], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("addend", [False, True], ids=["alone", "sum"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ACTS)
def test_gradients_of_the_reference(kind: str, norm: str, addend: bool) -> None:
    leaves = operands((2, 4, 2, 2), norm, addend, torch.float64, kind=kind)
    given = [t.requires_grad_() for t in leaves if t is not None]

    def call(*tensors: Tensor) -> Tensor:
        rest = list(tensors)
        return apply(*[None if t is None else rest.pop(0) for t in leaves], act_of(kind), norm, "reference")

    assert gradcheck(call, given, fast_mode=True)
    assert gradgradcheck(call, given, fast_mode=True)


@pytest.mark.parametrize("addend", [False, True], ids=["alone", "sum"])
@pytest.mark.parametrize("kind", ACTS)
def test_vectors_whose_gradients_their_maker_takes(kind: str, addend: bool) -> None:
    """Scale, shift and mean in place of statistics and parameters."""
    x, scale, shift, extra, slope = operands((3, 4, 3, 5), "frozen", addend, torch.float64, kind=kind)
    given, act = [x, scale, shift, extra, slope, torch.randn(4, dtype=torch.float64)], act_of(kind)
    results = []
    for backend in ("torch", *BACKENDS):
        leaves = [t if t is None else t.clone().requires_grad_() for t in given]
        x, scale, shift, extra, slope, mean = leaves
        if backend == "torch":
            z = (x - mean.view(-1, 1, 1)) * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)
            a = in_torch(z, None, None, extra, slope, act, "none")
        else:
            call = Call(Form(act), backend, autograd.module_of(x, Form(act), backend), mean, None, x, extra, None)
            a = NormAct.apply(call, x, scale, shift, extra, slope, mean)
        first = torch.autograd.grad(a.pow(2).sum(), [t for t in leaves if t is not None], create_graph=True)
        second = torch.autograd.grad(sum(g.pow(2).sum() for g in first), [t for t in leaves if t is not None])
        a = a.detach()
        once = NormAct.apply(call, x, scale, shift, extra, slope, mean) if backend != "torch" else None
        plain = first if once is None else torch.autograd.grad(once, [t for t in leaves if t is not None], 2 * a)
        results.append([a, *plain, *first, *second])
    for found in results[1:]:
        for ours, theirs in zip(found, results[0], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def grads_of(given: list[Tensor | None], act: Act, norm: str, backend: str, da: Tensor) -> list[Tensor | None]:
    leaves = [t if t is None else t.clone().requires_grad_() for t in given]
    a = in_torch(*leaves, act, norm) if backend == "torch" else apply(*leaves, act, norm, backend)
    a.backward(da.to(a.dtype))
    return [a.detach(), *(None if t is None else t.grad for t in leaves)]


@cpu_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("kind", ACTS)
def test_no_worse_than_twice_torchs_error(kind: str, norm: str, dtype: torch.dtype) -> None:
    for shape, addend, mean in (((2, 38, 7, 9), False, 0.0), ((2, 64, 3, 5, 4), True, 3.0)):
        given = operands(shape, norm, addend, dtype, mean, kind)
        da = torch.randn(shape).to(dtype)
        exact = grads_of([t if t is None else t.double() for t in given], act_of(kind), norm, "torch", da)
        plain = grads_of(given, act_of(kind), norm, "torch", da)
        ours = grads_of(given, act_of(kind), norm, "cpu", da)
        rule.check_all(NAMES, ours, plain, exact)


@cpu_only
@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_large_maps_which_are_written_past_the_caches(norm: str) -> None:
    shape = (2, 32, 184, 186)
    given, da = operands(shape, norm, True, torch.float32), torch.randn(shape)
    assert da.nbytes > 8 << 20
    exact = grads_of([t if t is None else t.double() for t in given], act_of("relu"), norm, "torch", da)
    plain = grads_of(given, act_of("relu"), norm, "torch", da)
    ours = grads_of(given, act_of("relu"), norm, "cpu", da)
    rule.check_all(NAMES, ours, plain, exact)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    ("per_sample", "groups"), [(False, 0), (True, 0), (True, 3)], ids=["batch", "instance", "group"]
)
def test_statistics(backend: str, per_sample: bool, groups: int) -> None:
    x = torch.randn(3, 6, 5, 7) + 1e3 * torch.arange(6).view(6, 1, 1)
    mean, var = autograd.stats(x, per_sample, groups, backend)
    exact = reference.stats(x.double(), per_sample, groups)
    torch.testing.assert_close(mean.double(), exact[0], rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(var.double(), exact[1], rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradient_that_is_a_part_of_a_wider_map(backend: str) -> None:
    """As `torch.cat` hands it on."""
    x = torch.randn(2, 5, 4, 3).requires_grad_()
    da = torch.randn(2, 12, 4, 3).contiguous(memory_format=torch.channels_last)
    apply(x, None, None, None, None, Act("silu"), "batch", backend).backward(da[:, 4:9])
    expected = x.detach().clone().requires_grad_()
    in_torch(expected, None, None, None, None, Act("silu"), "batch").backward(da[:, 4:9])
    torch.testing.assert_close(x.grad, expected.grad)


@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True)], ids=["both", "map", "slope"])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_one_slope_for_all_channels(backend: str, norm: str, needs: tuple[bool, bool]) -> None:
    x, weight, bias, addend, _ = operands((2, 6, 4, 3), norm, True, torch.float64)
    grads = []
    for run in ("torch", backend):
        given, slope = x.clone().requires_grad_(needs[0]), x.new_tensor([0.3]).requires_grad_(needs[1])
        tensors = (given, weight, bias, addend, slope, Act("prelu"), norm)
        a = in_torch(*tensors) if run == "torch" else apply(*tensors, run)
        a.backward(torch.linspace(-1, 2, a.numel(), dtype=a.dtype).view(a.shape))
        grads.append((a, given.grad, slope.grad))
    for ours, theirs in zip(grads[1], grads[0], strict=True):
        assert (ours is None) == (theirs is None)
        if ours is not None:
            torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("backend", BACKENDS)
def test_registered_operators(backend: str) -> None:
    x, weight, bias, addend, slope = operands((2, 4, 3, 3), "group", True, torch.float32, kind="prelu")
    mean, var = statistics(x, "group")
    ops, form = torch.ops.fastinpaint, ("gelu", 0.0, EPS, 2, True, backend)
    sloped = ("prelu", *form[1:])
    a = ops.norm_act_fwd(x, mean, var, weight, bias, addend, None, *form)
    for operator, arguments in (
        (ops.norm_act_fwd.default, (x, mean, var, weight, bias, addend, None, *form)),
        (ops.norm_act_bwd.default, (a, x, mean, var, weight, bias, addend, None, None, *form, [True] * 5)),
        (ops.norm_act_fwd.default, (x, mean, var, weight, bias, addend, slope, *sloped)),
        (ops.norm_act_bwd.default, (a, x, mean, var, weight, bias, addend, None, slope, *sloped, [True] * 5)),
        (ops.norm_act_bwd.default, (a, x, None, None, None, None, None, None, slope, *sloped, [True] * 5)),
        (ops.norm_act_stats.default, (x, True, 2, backend)),
    ):
        assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}
