"""Depthwise and grouped convolutions in Triton: what they refuse, and that they compile without spilling registers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from fastinpaint.ops.conv_block import triton as conv_block
from fastinpaint.ops.conv_block.triton import ahead
from fastinpaint.ops.types import Geometry, Source
from tools.inspect import aot

PLAIN = Geometry((1, 1), (1, 1), (1, 1), (0, 0))


def call(target: str, channels: int, groups: int) -> list[aot.Compiled]:
    """The kernels of a training pass of a deferred map with statistics, 3 x 3, in bfloat16."""

    def drawn(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.bfloat16, device="meta").to(memory_format=torch.channels_last)

    geometry = PLAIN._replace(groups=groups)
    source = Source(drawn(8, channels, 32, 32), *[torch.empty(channels, device="meta") for _ in range(3)], True)
    weight = drawn(channels, channels // groups, 3, 3)
    with aot.compiling(target) as found:
        y, mean, var = conv_block.fwd([source], weight, None, geometry, True)
        conv_block.bwd(y, mean, var, y, mean, [source], weight, geometry, [True], True, False)
    return [kernel for kernel in found if kernel.kernel.startswith("groups_")]


@pytest.mark.parametrize(("channels", "groups"), [(96, 96), (128, 2)], ids=["depthwise", "grouped"])
def test_the_kernels_compile_without_spills(channels: int, groups: int) -> None:
    if not ahead.can_collect():
        pytest.skip("the kernels are interpreted")
    found = call("sm_90", channels, groups)
    assert sorted(kernel.kernel for kernel in found) == [
        "groups_dgrad_kernel",
        "groups_fwd_kernel",
        "groups_wgrad_kernel",
    ]
    for kernel in found:
        assert kernel.complaint() is None
        assert ("HGMMA" in kernel.ops or "HMMA" in kernel.ops) == (groups == 2)


@pytest.mark.parametrize(
    ("shape", "groups", "said"),
    [
        ((32, 8, 3, 3), 4, "8 channels in and 8 out per group"),
        ((32, 1, 3, 3), 16, "1 channels in and 2 out per group"),
        ((48, 24, 3, 3), 2, "24 channels in and 24 out per group"),
    ],
    ids=str,
)
def test_other_groups_are_refused_in_one_sentence(shape: tuple[int, ...], groups: int, said: str) -> None:
    weight, x = torch.empty(shape), torch.empty(1, shape[1] * groups, 4, 4)
    reason = conv_block.why_not([Source(x)], weight, PLAIN._replace(groups=groups))
    assert reason is not None
    assert said in reason
