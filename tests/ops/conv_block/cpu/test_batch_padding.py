"""A single small video is padded to a batch of 2, so that torch chooses oneDNN; the padding does not affect results."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from fastinpaint.ops.conv_block import cpu, reference
from fastinpaint.ops.conv_block.cpu import onednn
from fastinpaint.ops.types import Geometry, Source


@pytest.fixture
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("two_threads")
def test_forward_and_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    geometry = Geometry((1, 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0))
    x, weight = torch.randn(1, 5, 4, 6, 7), torch.randn(3, 5, 3, 3, 3)
    sources = [Source(x.contiguous(memory_format=torch.channels_last_3d), relu=True)]
    seen = []
    original = onednn.pad_batch
    monkeypatch.setattr(onednn, "pad_batch", lambda a: seen.append(a.shape) or original(a))

    y, mean, var = cpu.fwd(sources, weight, None, geometry, True)
    dy, dmean, dvar = torch.randn_like(y), torch.randn(3), torch.randn(3)
    grads, dweight, _ = cpu.bwd(dy, dmean, dvar, y, mean, sources, weight, geometry, [True], True, False)

    exact = [Source(x.double(), relu=True)]
    y64, mean64, var64 = reference.fwd(exact, weight.double(), None, geometry, True)
    upstream = (dy.double(), dmean.double(), dvar.double(), y64, mean64)
    grads64, dweight64, _ = reference.bwd(*upstream, exact, weight.double(), geometry, [True], True, False)
    assert len(seen) == 3  # a forward; g and a backward
    for got, expected in ((y, y64), (mean, mean64), (var, var64), (grads[0].x, grads64[0].x), (dweight, dweight64)):
        torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("two_threads")
def test_other_maps_are_not_padded() -> None:
    small, weight = torch.empty(1, 5, 4, 6, 7), torch.empty(3, 5, 3, 3, 3)
    assert onednn.needs_batch_padding(small, weight)
    assert not onednn.needs_batch_padding(torch.empty(2, 5, 4, 6, 7), weight)
    assert not onednn.needs_batch_padding(torch.empty(1, 16, 32, 64, 64), weight)
    assert not onednn.needs_batch_padding(small.double(), weight)
    torch.set_num_threads(1)
    assert not onednn.needs_batch_padding(small, weight)
