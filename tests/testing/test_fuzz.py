"""Random cases of `conv_block` on every backend of this machine, and the fuzzer itself."""

from __future__ import annotations

import pytest
import torch

from fastinpaint.ops.conv_block import reference
from fastinpaint.testing import fuzz
from tests.ops.common import BACKENDS


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore:var_mean:UserWarning")
def test_two_hundred_cases(backend: str) -> None:
    ran, wrong, refused = fuzz.fuzz(seed=2019, count=200, backend=backend)
    assert not wrong, "\n".join(wrong)
    assert ran >= 130, refused


def test_a_seed_gives_the_same_cases() -> None:
    first, second = list(fuzz.cases(5, 20)), list(fuzz.cases(5, 20))
    assert first == second
    assert first != list(fuzz.cases(6, 20))
    assert torch.equal(fuzz.Inputs(first[0]).weight, fuzz.Inputs(second[0]).weight)


def test_a_slightly_wrong_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = reference.stats_bwd
    monkeypatch.setattr(reference, "stats_bwd", lambda *args: right(*args) * (1 + 1e-4))
    _, wrong, _ = fuzz.fuzz(seed=1, count=10, backend="reference", dtypes=(torch.float32,))
    assert any("dweight" in sentence for sentence in wrong)


def test_a_missing_addend_is_found_even_in_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    right = reference.activation.fwd
    monkeypatch.setattr(reference.activation, "fwd", lambda sources: right([s._replace(addend=None) for s in sources]))
    _, wrong, _ = fuzz.fuzz(seed=1, count=10, backend="reference", dtypes=(torch.bfloat16,))
    assert any(sentence.startswith("y:") for sentence in wrong)


def test_command_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["fuzz", "--seed", "3", "--cases", "2", "--backend", "reference"])
    assert fuzz.main() == 0
    assert "reference, seed 3: 2 of 2 cases ran, 0 wrong." in capsys.readouterr().out
