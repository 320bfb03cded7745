"""No training step waits for the device, with any backend. GPU kernels are replaced by no-ops.

The host code of the GPU's backends runs as it does there, on CPU tensors, and its launches do nothing. What would wait
for a GPU raises. On a GPU, tests/gpu lets torch itself watch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from fastinpaint import graph
from fastinpaint.models import ModelConfig
from fastinpaint.ops.conv_block import library
from fastinpaint.ops.dispatch import native_cuda, triton_support
from fastinpaint.training import TrainConfig, losses, train, trainer
from tests.training.tape import Recording

WAITING = ("item", "tolist", "numpy", "cpu", "nonzero", "__bool__", "__float__", "__int__", "__index__", "__array__")


@contextmanager
def nothing_waits() -> Iterator[None]:
    """Inside, asking a tensor for its value raises, in Python as in torch's own operations."""

    def refuse(name: str):
        def refused(self: Tensor, *args: object, **options: object) -> None:
            raise AssertionError(f"Tensor.{name} waits for the device")

        return refused

    with pytest.MonkeyPatch.context() as patch, Recording():
        for name in WAITING:
            patch.setattr(Tensor, name, refuse(name), raising=False)
        yield


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """GPU backends take CPU tensors, and their launches are counted and do nothing."""
    jit = pytest.importorskip("triton.runtime.jit")
    counts = {"triton": 0, "cuda": 0}

    def count(name: str) -> None:
        counts[name] += 1

    sizes = SimpleNamespace(**dict.fromkeys(native_cuda.SIZES, lambda *arguments: 16))
    monkeypatch.setattr(jit.JITFunction, "run", lambda self, *args, **options: count("triton"))
    monkeypatch.setattr(native_cuda, "call", lambda *arguments: count("cuda"))
    monkeypatch.setattr(native_cuda, "library", lambda: sizes)
    monkeypatch.setattr(native_cuda, "why_not_on", lambda *tensors: None)
    monkeypatch.setattr(triton_support, "why_not_on", lambda op, tensor: None)
    monkeypatch.setattr(library, "why_not", lambda *arguments: None)
    monkeypatch.setenv("FASTINPAINT_TUNE", "0")
    return counts


def steps(data: Path, out: Path, backend: str, **options: object) -> None:
    """Two steps of the trainer that may not wait; no report, as no kernel has computed a loss."""
    taken = trainer.Trainer._step

    def watched(*args: object) -> Tensor:
        with nothing_waits():
            return taken(*args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.Trainer, "_step", watched)
        patch.setattr(trainer.Trainer, "_after_step", lambda self, phase, loss: None)
        patch.setattr(graph, "why_not", lambda *arguments: None)  # for the optimiser of a GPU
        patch.setattr(graph, "GraphedStep", lambda step, *rest: step)
        patch.setattr(graph, "CudaRecorder", lambda device: None)
        tiny = ModelConfig(width=1 / 16)
        config = TrainConfig(model=tiny, strategy="t2", steps=2, backend=backend, graph=True, **options)  # type: ignore[arg-type]
        train(config, data, out)


@pytest.mark.parametrize("backend", ["reference", "triton", "cuda", "library"])
def test_a_step_never_waits(data: Path, tmp_path: Path, launches: dict[str, int], backend: str) -> None:
    steps(data, tmp_path / "run", backend, clip=0.1)
    if backend in launches:
        assert launches[backend] > 200


@pytest.mark.parametrize("options", [{"amp": "fp16", "clip": 0.1}, {"accumulate": 2, "batch": 2}], ids=str)
def test_a_step_with_other_options_never_waits(data: Path, tmp_path: Path, options: dict[str, object]) -> None:
    steps(data, tmp_path / "run", "reference", **options)


WAYS = {
    "item": lambda x: x.sum().item(),
    "cpu": lambda x: x.cpu(),
    "bool": lambda x: bool(x.sum() > 0),
    "float": lambda x: float(x.sum()),
    "tolist": lambda x: x.tolist(),
    "nonzero": torch.nonzero,
    "where": lambda x: torch.where(x > 0),
    "masked_select": lambda x: torch.masked_select(x, x > 0),
    "a mask as an index": lambda x: x[x > 0],
    "assignment by a mask": lambda x: x.index_put_((x > 0,), torch.ones(1)),
    "unique": torch.unique,
    "bincount": lambda x: torch.bincount(x.long()),
    "equal": lambda x: torch.equal(x, x + 1),
    "repeat_interleave": lambda x: torch.repeat_interleave(x, x.long()),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_wait_is_seen(way: str) -> None:
    x = torch.tensor([1.0, 2.0])
    with pytest.raises((AssertionError, RuntimeError), match=r"waits for the device|not permitted"), nothing_waits():
        WAYS[way](x)


def test_a_step_that_waits_is_seen(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = losses.masked_l1
    monkeypatch.setattr(losses, "masked_l1", lambda *args, checked, **options: looked(*args, **options))
    with pytest.raises((AssertionError, RuntimeError), match=r"waits for the device|not permitted"):
        steps(data, tmp_path / "run", "reference")
