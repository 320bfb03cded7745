"""Zero padding expressed as geometry equals written zeros."""

from __future__ import annotations

import random
import re
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fastinpaint.ops.conv_block import checks, conv_block, reference, zero_padding
from fastinpaint.ops.conv_block.cpu import onednn
from fastinpaint.ops.conv_block.zero_padding import Zeros, absorbed
from fastinpaint.ops.types import Geometry
from tests.ops.common import BACKENDS


def written(x: Tensor, around: Zeros) -> Tensor:
    return F.pad(x, [end for ends in reversed(around) for end in ends])


def test_random_geometries_equal_written_zeros() -> None:
    rng, generator, taken = random.Random(0), torch.Generator().manual_seed(0), {False: 0, True: 0}
    for _ in range(1000):
        transposed = rng.random() < 0.7
        kernel, stride, dilation = (
            [rng.choice(choices) for _ in "hw"] for choices in ((1, 2, 3, 4), (1, 2, 3), (1, 2))
        )
        padding = [rng.randint(0, 4) for _ in "hw"]
        extra = [rng.randint(0, max(s, d) - 1) if transposed else 0 for s, d in zip(stride, dilation, strict=True)]
        geometry = Geometry(*map(tuple, (stride, padding, dilation, extra)), transposed)
        around = tuple((rng.randint(0, 2), rng.randint(0, 2)) for _ in "hw")
        found = absorbed(geometry, around)
        x, weight = (torch.randn(shape, generator=generator).double() for shape in ((1, 2, 5, 4), (2, 2, *kernel)))
        if isinstance(found, str):
            continue
        try:
            expected = torch.ops.aten.convolution(
                written(x, around), weight, None, stride, padding, dilation, transposed, extra, 1
            )
        except RuntimeError:
            continue  # the kernel does not fit
        shape = checks.check_weight(x.shape, weight, None, found)
        y = zero_padding.convolution(x, weight, None, found)
        assert y.shape == shape == expected.shape
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        taken[transposed] += 1
    assert min(taken.values()) > 20, taken


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_frame_in_front_of_a_transposed_convolution(backend: str) -> None:
    """Four taps in time, stride 1: a frame of zeros in front crops a frame at the end."""
    geometry = Geometry((1, 2, 2), (2, 1, 1), (1, 1, 1), (0, 0, 0), True)
    found = absorbed(geometry, ((1, 0), (0, 0), (0, 0)))
    assert found == geometry._replace(padding=(1, 1, 1), output_padding=(-1, 0, 0))
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(s, generator=generator).double() for s in ((2, 3, 3, 4, 5), (3, 2, 4, 4, 4)))
    leaves = [t.requires_grad_() for t in (x, weight)]
    expected = F.conv_transpose3d(written(x, ((1, 0), (0, 0), (0, 0))), weight, None, (1, 2, 2), (2, 1, 1))
    options = {"padding": found.padding, "output_padding": found.output_padding, "stride": found.stride}
    y = conv_block(x, weight, transposed=True, backend=backend, **options)
    dy = torch.randn(expected.shape, generator=generator).double()
    ours, theirs = (torch.autograd.grad(result, leaves, dy) for result in (y, expected))
    for mine, other in zip((y, *ours), (expected, *theirs), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("geometry", "around", "sentence"),
    [
        (Geometry((1, 1), (1, 1), (1, 1), (0, 0)), ((0, 0), (2, 0)), "ends of an axis alike, .* 2 and 0 zeros"),
        (Geometry((2, 1), (1, 1), (1, 1), (0, 0), True), ((1, 1), (0, 0)), "would begin 1 rows before"),
        (Geometry((1, 1), (1, 1), (1, 1), (0, 0), True), ((0, 0), (0, 1)), "would end 1 rows behind"),
    ],
    ids=["ends that differ", "before", "behind"],
)
def test_padding_that_is_no_geometry_gives_a_reason(geometry: Geometry, around: Zeros, sentence: str) -> None:
    found = absorbed(geometry, around)
    assert isinstance(found, str)
    assert re.search(sentence, found)


class Asked(TorchDispatchMode):
    """Notes what torch's own backward of a convolution is asked for: channels, strides and which gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[int, list[int], list[bool]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.calls.append((args[1].shape[1], args[4], args[10]))
        return func(*args, **(kwargs or {}))


def of_reference(g: Tensor, a: Tensor, weight: Tensor, geometry: Geometry, mask: list[bool]) -> Any:
    return reference._convolution_bwd(g, a, weight, geometry, *mask[:2])


@pytest.mark.parametrize("backward", [of_reference, onednn.convolution_bwd])
@pytest.mark.parametrize("mask", [[True, True, False], [False, True, False], [True, False, False]])
@pytest.mark.parametrize("stride", [(2, 2), (2, 1), (1, 4)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("size", [(9, 12), (8, 8)])
def test_onednn_is_not_asked_for_what_it_writes_past(
    backward: Any, mask: list[bool], stride: tuple[int, int], layout: torch.memory_format, size: tuple[int, int]
) -> None:
    """torch 2.13 ends many a process that asks: its heap is damaged."""
    geometry = Geometry(stride, (0, 0), (1, 1), (0, 0), False, 1)
    a, weight = torch.randn(2, 3, *size).contiguous(memory_format=layout), torch.randn(7, 3, 1, 1)
    g = torch.randn_like(zero_padding.convolution(a, weight, None, geometry))
    with Asked() as asked:
        found = backward(g, a, weight, geometry, mask)
    assert asked.calls
    assert not [call for call in asked.calls if max(call[1]) > 1 and call[2][1]]
    right = zero_padding.convolution_backward(g.double(), a.double(), weight.double(), geometry, mask)
    for mine, expected in zip(found, right, strict=True):
        assert (mine is None) == (expected is None)
        if mine is not None and expected is not None:
            torch.testing.assert_close(mine, expected.float(), rtol=1e-5, atol=1e-5)


OTHER: list[dict[str, Any]] = [{"stride": (1, 1)}, {"padding": (1, 1)}, {"groups": 3}, {"transposed": True}]


@pytest.mark.parametrize("change", [*OTHER, {"size": 3}, {"read": 16}, {"read": 1}], ids=str)
def test_other_convolutions_are_asked_for_as_they_are(change: dict[str, Any]) -> None:
    change = dict(change)
    size, read = change.pop("size", 1), change.pop("read", 3)
    geometry = Geometry((2, 2), (0, 0), (1, 1), (0, 0), False, 1)
    assert zero_padding.overruns(torch.randn(7, 3, 1, 1), geometry)
    assert not zero_padding.overruns(torch.randn(7, read, size, size), geometry._replace(**change))
