"""Bugs planted in the kernels' source are caught by the checked interpreter or by the accuracy rule."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch
from triton.runtime.errors import InterpreterError
from triton.runtime.interpreter import InterpretedFunction

from fastinpaint.ops.conv_block.triton import dgrad_kernel, fwd_kernel, gather, tiles, wgrad_kernel
from tests.ops.conv_block.triton.test_conv_block import run
from tests.ops.triton.cases import Case

MODULES = (gather, fwd_kernel, dgrad_kernel, wgrad_kernel)
CASE = Case((18,), 16, (3, 5), (3, 3), samples=1)
BUGS = {
    "no bug": (gather, "", "", None),
    "missing mask": (
        gather, "& (i_w < in_size[2])\n        if TIME", "\n        if TIME", "OutOfBounds.*load|y: max"
    ),
    "tap off by one": (gather, "first[5] + j_w * step[2]", "first[5] + j_w * step[2] + 1", "y: max"),
    "live tap taken for dead": (gather, "room // step + 1)", "room // step)", "y: max"),
    "statistics over padded rows": (
        fwd_kernel, "tl.where(inside[:, None], value - tile_mean[None, :], 0.0)", "value - tile_mean", "var"
    ),
    "stores of padded rows": (
        fwd_kernel, "mask=inside[:, None] & m_n[None, :])", "mask=m_n[None, :])", "OutOfBounds.*store"
    ),
    "race between splits": (wgrad_kernel, "row = (i_s * all_taps + tap)", "row = tap", "Race.*stores"),
    "a split forgotten": (wgrad_kernel, "first_step = i_s * share", "first_step = (i_s + 1) * share", "dweight"),
    "a place of the product missed": (wgrad_kernel, "low, tl.maximum(tl.min", "low, -1 + tl.maximum(tl.min", "dweight"),
}  # fmt: skip


def plant(module: ModuleType, before: str, after: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Use a copy of the module's kernels, with the text changed, wherever the kernels are used."""
    source = Path(str(module.__file__)).read_text()
    assert before in source
    path = folder / "planted.py"
    path.write_text(source.replace(before, after, 1))
    spec = importlib.util.spec_from_file_location("planted", path)
    planted = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(planted)
    for name, kernel in vars(planted).items():
        for user in MODULES if isinstance(kernel, InterpretedFunction) else ():
            if getattr(user, name, None) is not None:
                monkeypatch.setattr(user, name, kernel)


@pytest.mark.parametrize("bug", BUGS)
def test_a_planted_bug_is_caught(bug, tmp_path, monkeypatch):
    module, before, after, message = BUGS[bug]
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    monkeypatch.setattr(tiles, "splits", lambda tile, work: 2)
    plant(module, before, after, tmp_path, monkeypatch)
    if message is None:
        run(CASE, torch.float32)
    else:
        with pytest.raises((AssertionError, InterpreterError), match=message):
            run(CASE, torch.float32)
