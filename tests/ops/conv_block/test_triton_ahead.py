"""Launches collected from a step are compiled in other processes, and real launches find the results."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")

from fastinpaint.ops.activation import triton as activation
from fastinpaint.ops.conv_block import triton as conv_block
from fastinpaint.ops.conv_block.triton import ahead
from fastinpaint.ops.types import Source
from tools.inspect import aot
from tools.inspect.paper_layers import paper_layers


def test_a_step_is_listed_with_every_tile_that_would_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTINPAINT_TUNE", raising=False)
    layer = next(layer for layer in paper_layers() if layer.name == "combcn.5")
    sources, weight, _ = layer.inputs(torch.bfloat16, "meta")
    with ahead.collecting() as launches:
        y, mean, var = conv_block.fwd(sources, weight, None, layer.geometry, True)
        conv_block.bwd(y, mean, var, y, mean, sources, weight, layer.geometry, [True], True, False)
    assert not ahead.is_collecting()
    tiles = [dict(launch.options) for launch in launches if launch.kernel == "conv_fwd_kernel"]
    assert len(tiles) > 1
    assert {tile["num_warps"] for tile in tiles} == {4, 8}
    assert {"conv_fwd_kernel", "conv_dgrad_kernel", "box_wgrad_kernel"} <= {launch.kernel for launch in launches}


def test_other_processes_compile_what_a_launch_then_finds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    x = torch.empty(8, 64, 16, 16, dtype=torch.bfloat16, device="meta", memory_format=torch.channels_last)
    vectors = [torch.empty(64, device="meta") for _ in range(3)]
    with ahead.collecting() as launches:
        activation.fwd([Source(x, *vectors, True)])
        activation.batch_stats(x)
        activation.fwd([Source(x, *vectors, True)])
    assert len(launches) == 3  # equal ones once
    broken = launches[0]._replace(arguments=())
    assert ahead.compile_all([*launches, broken], ("cuda", 90, 32), workers=2) == 1
    made = {json.loads(path.read_text())["name"] for path in tmp_path.glob("*/*.json") if "__grp__" not in path.name}
    assert {launch.kernel for launch in launches} == made
    files = set(tmp_path.glob("*/*"))
    with aot.compiling("sm_90"):
        activation.fwd([Source(x, *vectors, True)])
    assert set(tmp_path.glob("*/*")) == files, "the launch compiled it again"
