"""The choice of an op's backend."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch

from fastinpaint.ops.activation import activation
from fastinpaint.ops.dispatch import registry
from fastinpaint.ops.types import Source

CPU = torch.device("cpu")


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch) -> dict[str, SimpleNamespace]:
    """Fakes of every backend. All can run unless a test gives a reason."""
    found = {name: SimpleNamespace(name=name, reason=None) for name in registry.BACKENDS}
    for room in found.values():
        room.why_not = lambda *args, room=room: room.reason
    monkeypatch.setattr(registry, "find", lambda op, name: found[name])
    monkeypatch.setattr(registry, "_module", lambda op, name: found[name])
    monkeypatch.delenv(registry.VARIABLE, raising=False)
    return found


def test_auto_takes_the_first_that_can(rooms: dict[str, SimpleNamespace]) -> None:
    cuda = torch.device("cuda")
    assert registry.choose("conv_block", None, CPU) is rooms["cpu"]
    assert registry.choose("conv_block", "auto", cuda) is rooms["library"]  # no measurement says better
    rooms["library"].reason = "it is Tuesday."
    assert registry.choose("conv_block", "auto", cuda) is rooms["cuda"]
    rooms["cuda"].reason = "it is Tuesday."
    assert registry.choose("conv_block", "auto", cuda) is rooms["triton"]
    assert registry.choose("conv_block", "auto", torch.device("meta")) is rooms["reference"]


def test_the_argument_beats_the_variable_beats_auto(
    rooms: dict[str, SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(registry.VARIABLE, "triton")
    assert registry.choose("conv_block", None, CPU) is rooms["triton"]
    assert registry.choose("conv_block", "reference", CPU) is rooms["reference"]


def test_a_forced_backend_that_cannot_run_says_why(rooms: dict[str, SimpleNamespace]) -> None:
    rooms["cuda"].reason = "it is Tuesday."
    with pytest.raises(NotImplementedError, match=r"conv_block: backend 'cuda' cannot run this: it is Tuesday\."):
        registry.choose("conv_block", "cuda", CPU)


def test_auto_logs_what_it_took_and_what_it_did_not(
    rooms: dict[str, SimpleNamespace], caplog: pytest.LogCaptureFixture
) -> None:
    rooms["cpu"].reason = "it is Tuesday."
    with caplog.at_level(logging.DEBUG, "fastinpaint.ops.dispatch.registry"):
        registry.choose("conv_block", None, CPU)
    assert "conv_block: reference (plain torch takes every dtype); not cpu: it is Tuesday." in caplog.text


def test_unknown_names_list_the_known(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="must be one of auto, reference, cpu, cuda, triton, library, got 'fast'"):
        registry.requested("fast")
    monkeypatch.setenv(registry.VARIABLE, "faster")
    with pytest.raises(ValueError, match="got 'faster'"):
        registry.requested(None)


def test_a_cpu_tensor_on_a_gpu_backend_is_refused() -> None:
    with pytest.raises(NotImplementedError, match="activation: backend 'triton' cannot run this: "):
        activation(Source(torch.zeros(1, 1, 2, 2), relu=True), backend="triton")


@pytest.mark.parametrize("op", registry.OPS)
def test_every_room_has_a_reference_with_the_whole_contract(op: str) -> None:
    room = registry.find(op, "reference")
    assert callable(room.fwd)
    assert callable(room.bwd)
    assert callable(room.why_not)
