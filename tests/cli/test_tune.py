"""``fastinpaint tune`` on a machine without a GPU."""

from __future__ import annotations

import pytest
import torch

from fastinpaint.cli import main


def test_says_in_one_line_that_it_needs_a_gpu(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["tune", "--size", "64"]) == 2
    assert capsys.readouterr().err == "fastinpaint tune: tune measures on a GPU, and torch finds none here.\n"


def test_unknown_values_list_the_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tune", "--dtype", "int8"]) == 2
    assert "bf16" in capsys.readouterr().err
