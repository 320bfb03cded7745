"""``fastinpaint tune`` on a machine without a GPU."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fastinpaint.cli import main, tune
from fastinpaint.ops.dispatch import autotune

TINY = ["tune", "--frames", "2", "--size", "16", "--width", "0.0625"]


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder of the test's own."""
    monkeypatch.setenv("FASTINPAINT_CACHE", str(tmp_path))
    autotune._memory_file.cache_clear()
    yield tmp_path
    autotune._memory_file.cache_clear()


def test_says_in_one_line_that_it_needs_the_gpu_that_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["tune", "--size", "64", "--device", "cuda"]) == 2
    said = capsys.readouterr().err
    assert said == "fastinpaint tune: device: cuda was asked for, but torch finds no CUDA device; use cpu or auto.\n"


def test_unknown_values_list_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--dtype", "int8"]) == 2
    assert "bf16" in capsys.readouterr().err


def test_remembers_every_convolution_of_a_step(
    memory: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autotune, "ROUNDS", 1)
    assert main([*TINY, "--device", "cpu"]) == 0
    (file,) = memory.glob("backends-*.json")
    known = json.loads(file.read_text())
    assert 20 < len(known) <= 31
    assert set(known.values()) <= {"cpu", "reference"}
    said = capsys.readouterr().out
    assert said.startswith(f"remembered for {len(known)} convolutions: ")
    assert said.endswith(f"\n{file}\n")
    assert os.environ["FASTINPAINT_TUNE"] == "0"
    monkeypatch.setattr(autotune, "measure", lambda *arguments: pytest.fail("measured again"))
    assert main([*TINY, "--device", "cpu"]) == 0


def test_says_that_a_deterministic_choice_cannot_be_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert main(TINY) == 2
    assert "forbids choosing by measurement" in capsys.readouterr().err


def test_a_gpus_kernels_are_compiled_before_they_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """In several processes; the step that lists them runs none of them."""
    pytest.importorskip("triton")
    from fastinpaint.ops.conv_block.triton import ahead

    did: list[object] = []
    monkeypatch.setattr(tune.triton_support, "why_not_on", lambda op, first: None)
    monkeypatch.setattr(tune, "_step", lambda *arguments: did.append((ahead.is_collecting(), arguments[-1])))
    monkeypatch.setattr(ahead, "compile_new", lambda launches: did.append(len(launches)))
    tune._compile_ahead(argparse.Namespace(), torch.device("cpu"), torch.bfloat16)
    assert did == [(True, "triton"), 0]
