"""Limits of the Triton kernels: shared memory, 32-bit offsets, pinned options."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton")
from triton.runtime.jit import JITFunction

from fastinpaint.ops.conv_block import triton as conv_block
from fastinpaint.ops.conv_block.triton import tiles
from fastinpaint.ops.conv_block.triton.taps import phase_table, problem
from fastinpaint.ops.dispatch import native_cuda, triton_support
from fastinpaint.ops.types import Geometry, Source
from tools.inspect import aot, static_model
from tools.inspect.paper_layers import paper_layers

SPACE = Geometry((1, 1, 1), (1, 1, 1), (1, 1, 1), (0, 0, 0))


def reason(*shape: int, taps: int = 3) -> str | None:
    x = torch.empty(shape, device="meta", dtype=torch.bfloat16)
    weight = torch.empty(shape[1], shape[1], *[taps] * (len(shape) - 2), device="meta", dtype=torch.bfloat16)
    return conv_block.why_not([Source(x)], weight, SPACE)


def test_offsets_beyond_32_bits_are_refused() -> None:
    """A tile that reads three frames of 2160 x 3840 x 256 cannot count their items."""
    assert "offsets inside a tile are 32 bits" in str(reason(1, 256, 8, 2160, 3840))
    assert "need tensors on a GPU" in str(reason(1, 64, 8, 2160, 3840))  # nothing else is said against it
    assert "offsets inside a tile are 32 bits" in str(reason(1, 16384, 2, 4, 4))  # the weight has 27 * 2^28 items


@pytest.mark.parametrize(("capability", "bytes_"), [((8, 9), 99 << 10), ((12, 0), 99 << 10), ((8, 0), 163 << 10)])
def test_tiles_keep_within_the_chips_shared_memory(monkeypatch, capability, bytes_) -> None:
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device=None: capability)
    monkeypatch.setattr(triton_support, "INTERPRETING", False)
    triton_support._shared_of.cache_clear()
    works = []
    for layer in paper_layers():
        for dtype in (torch.bfloat16, torch.float32):
            sources, weight, _ = layer.inputs(dtype, "meta")
            with static_model.recorded() as found:
                y, mean, var = conv_block.fwd(sources, weight, None, layer.geometry, layer.stats)
                conv_block.bwd(
                    y, mean, var, y, mean, sources, weight, layer.geometry, [True] * len(sources), True, False
                )
            works += [(kind, work) for kind, work, *_ in found]
    triton_support._shared_of.cache_clear()
    for kind, work in works:
        available = tiles.WGRAD_TILES if kind == "wgrad" else tiles.GATHER_TILES
        assert tiles.candidates(available, work)
        assert all(tiles.shared_bytes(tile, work) <= bytes_ for tile in tiles.candidates(available, work))
    assert native_cuda.SHARED_LEAST == 99 << 10


def test_every_launch_states_whether_multiply_and_add_fuse(monkeypatch) -> None:
    """Triton 3.10 changes its default, and results with it."""
    asked: dict[str, object] = {}
    monkeypatch.setattr(
        JITFunction,
        "run",
        lambda self, *args, **options: asked.update({self.__name__: options.get("enable_fp_fusion")}),
    )
    layer = next(layer for layer in paper_layers() if layer.name == "combcn.15")
    sources, weight, bias = layer.inputs(torch.bfloat16, "meta")
    vector = torch.empty(layer.out_channels, device="meta")
    norm = aot.norm_of(vector)
    y, normed = conv_block.fwd_norm(sources, weight, bias, layer.geometry, norm)
    rest = (sources, weight, layer.geometry, [True, True], True, False)
    conv_block.bwd_norm(torch.empty_like(y), vector, vector, y, normed, vector, *rest)
    assert len(asked) >= 5
    assert set(asked.values()) == {True}, asked


def test_phases_are_plain_numbers() -> None:
    """A tensor created during the capture of a graph would lie in the graph's memory pool."""
    up = Geometry((2, 2), (1, 1), (1, 1), (0, 0), True)
    gather = problem((1, 8, 4, 4), (1, 8, 8, 8), (4, 4), up).forward()
    table = phase_table(gather.axes)
    assert all(type(number) is int for number in table)
    assert len(table) == 3 * 2 * 3
