"""Launches collected from a step are compiled in other processes, and real launches find the results."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from fastinpaint.files import locked
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


def test_workers_that_take_too_long_are_ended(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    start, started = ahead.subprocess.Popen, []

    def sleeping(command: Sequence[str], **options: Any) -> Any:
        started.append(start([command[0], "-c", "import time; time.sleep(600)"], **options))
        return started[-1]

    monkeypatch.setattr(ahead.subprocess, "Popen", sleeping)
    launches = [ahead.Launch("fastinpaint.ops.activation.triton_kernels", "none", (i,), ()) for i in range(3)]
    assert ahead.compile_all(launches, ("cuda", 90, 32), workers=2, limit=0.05) == 3
    assert len(started) == 2
    for worker in started:
        assert worker.wait(60) < 0  # ended by a signal
    assert "3 of 3 kernels took over 0.05 s" in caplog.text


def test_a_machine_without_processes_left_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*arguments: object, **options: object) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(ahead.subprocess, "Popen", refuse)
    assert ahead.compile_all([ahead.Launch("m", "k", (), ())], ("cuda", 90, 32)) == 1
    assert "no process could be started" in caplog.text


def test_what_was_compiled_on_this_machine_is_not_compiled_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    did: list[int] = []

    def compile_all(launches: Sequence[ahead.Launch], target: ahead.Target) -> int:
        did.append(len(launches))
        return 0

    monkeypatch.setenv("FASTINPAINT_CACHE", str(tmp_path / "ours"))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "tritons"))
    monkeypatch.setattr(ahead, "compile_all", compile_all)
    one, two = (ahead.Launch("m", "k", (i,), ()) for i in range(2))
    (tmp_path / "tritons").mkdir()
    assert ahead.compile_new([one], ("cuda", 90, 32)) == 0
    assert ahead.compile_new([one, two], ("cuda", 90, 32)) == 0
    assert ahead.compile_new([one, two], ("cuda", 90, 32)) == 0
    assert did == [1, 1, 0]
    ahead.compile_new([one], ("cuda", 80, 32))
    assert did == [1, 1, 0, 1]
    (tmp_path / "tritons").rmdir()  # the results are gone
    ahead.compile_new([one, two], ("cuda", 90, 32))
    assert did == [1, 1, 0, 1, 2]


def test_one_process_waits_while_another_compiles(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It then finds everything compiled. A process that takes too long is not waited for."""
    order: list[str] = []

    def compile_all(launches: Sequence[ahead.Launch], target: ahead.Target) -> int:
        order.append(f"{len(launches)} compiled")
        return 0

    def other(seconds: float) -> None:
        order.append("the other ends")
        held.close()

    monkeypatch.setenv("FASTINPAINT_CACHE", str(tmp_path))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(ahead, "compile_all", compile_all)
    monkeypatch.setattr(ahead.time, "sleep", other)
    launch, held = ahead.Launch("m", "k", (), ()), contextlib.ExitStack()
    held.enter_context(locked(tmp_path, "the compiler"))
    ahead.compile_new([launch], ("cuda", 90, 32))
    assert order == ["the other ends", "1 compiled"]
    monkeypatch.setattr(ahead, "LIMIT", 0.0)
    with locked(tmp_path, "the compiler"):
        ahead.compile_new([launch], ("cuda", 90, 32))
    assert order[2:] == ["0 compiled"]
