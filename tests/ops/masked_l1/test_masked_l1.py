"""`masked_l1`: Eqs. 1 and 2, gradients, what is kept, registration."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from fastinpaint.ops.masked_l1 import masked_l1
from tests.ops.common import BACKENDS, leaf

pytestmark = pytest.mark.parametrize("backend", BACKENDS)


def data(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    mask = torch.zeros(2, 1, 3, 5, 6, dtype=dtype)
    mask[0, :, :, 1:3, 2:5] = 1
    mask[1, :, 0, :2] = mask[1, :, 1, 4] = mask[1, :, 2, 1:, 3] = 1
    return leaf(2, 3, 3, 5, 6, dtype=dtype), leaf(2, 3, 3, 5, 6, dtype=dtype), mask


def test_equation_1_is_the_mean_error_of_each_sample(backend: str) -> None:
    output, target, mask = data()
    per_sample = [(output - target).abs()[n][mask[n].expand(3, -1, -1, -1) == 1].mean() for n in range(2)]
    torch.testing.assert_close(masked_l1(output, target, mask, backend=backend), sum(per_sample) / 2)


def test_equation_2_is_the_mean_error_of_each_frame(backend: str) -> None:
    output, target, mask = data()
    frames = [
        (output - target).abs()[n, :, t][mask[n, :, t].expand(3, -1, -1) == 1].mean()
        for n in range(2)
        for t in range(3)
    ]
    torch.testing.assert_close(masked_l1(output, target, mask, per_frame=True, backend=backend), sum(frames) / 6)


@pytest.mark.parametrize("per_frame", [False, True], ids=["sample", "frame"])
def test_gradients(backend: str, per_frame: bool) -> None:
    output, target, mask = data()
    assert gradcheck(lambda o, t: masked_l1(o, t, mask, per_frame=per_frame, backend=backend), (output, target))


def test_masks_of_any_kind(backend: str) -> None:
    output, target, mask = data(torch.float32)
    expected = masked_l1(output, target, mask, backend=backend)
    for kind in (torch.bool, torch.uint8, torch.float64):
        torch.testing.assert_close(masked_l1(output, target, mask.to(kind), backend=backend), expected)


def test_keeps_its_arguments_and_no_more(backend: str) -> None:
    output, target, mask = data(torch.float32)
    kept: set[int] = set()

    def pack(tensor: Tensor) -> Tensor:
        kept.add(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        masked_l1(output, target, mask, backend=backend)
    assert kept == {t.data_ptr() for t in (output, target, mask)}


def test_registered_operators(backend: str) -> None:
    output, target, mask = (t.detach() for t in data())
    ops = torch.ops.fastinpaint
    for operator, arguments in (
        (ops.masked_l1_fwd.default, (output, target, mask, True, backend)),
        (ops.masked_l1_bwd.default, (torch.ones((), dtype=torch.float64), output, target, mask, True, backend)),
    ):
        assert set(torch.library.opcheck(operator, arguments).values()) == {"SUCCESS"}


def test_bfloat16_output_gives_a_float32_loss(backend: str) -> None:
    output, target, mask = data(torch.bfloat16)
    loss = masked_l1(output, target, mask, backend=backend)
    exact = masked_l1(output.double(), target.double(), mask.double(), backend="reference")
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=1e-5, atol=0)


def test_wrong_arguments_get_one_sentence(backend: str) -> None:
    output, target, mask = data()
    with pytest.raises(ValueError, match=r"output must be \[N, C, T, H, W\], got \(3, 3, 5, 6\)"):
        masked_l1(output[0], target, mask, backend=backend)
    with pytest.raises(ValueError, match=r"target must be \(2, 3, 3, 5, 6\) for this output, got \(2, 3, 3, 5, 5\)"):
        masked_l1(output, target[..., :5], mask, backend=backend)
    with pytest.raises(ValueError, match=r"mask must be \(2, 1, 3, 5, 6\)"):
        masked_l1(output, target, mask.expand(-1, 3, -1, -1, -1), backend=backend)
    with pytest.raises(ValueError, match="mask must not require a gradient"):
        masked_l1(output, target, mask.requires_grad_(), backend=backend)
    with pytest.raises(TypeError, match="output must be float64"):
        masked_l1(torch.zeros(1, 3, 1, 2, 2, dtype=torch.int64), target, mask, backend=backend)
