"""How measurements choose the backend: with fake kernels and a fake clock, and with real kernels where two can run."""

from __future__ import annotations

import contextlib
import itertools
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import fastinpaint
from fastinpaint.ops.dispatch import autotune, registry, tuning_cache
from fastinpaint.ops.types import Geometry, Source

CPU = torch.device("cpu")
GEOMETRY = Geometry((1, 1), (1, 1), (1, 1), (0, 0))


def arguments(channels: int = 2) -> tuple[list[Source], torch.Tensor, Geometry]:
    return [Source(torch.zeros(1, channels, 4, 4), relu=True)], torch.zeros(3, channels, 3, 3), GEOMETRY


class Clock:
    """Time passes only while kernels run."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


class Kernels:
    """A backend of conv_block that does nothing but take fake time."""

    def __init__(self, name: str, seconds: float, clock: Clock) -> None:
        self.name, self.seconds, self.clock = name, seconds, clock
        self.reason: str | None = None
        self.runs = 0
        self.breaks: Exception | None = None

    def why_not(self, *arguments: object) -> str | None:
        return self.reason

    def fwd(self, *arguments: object) -> tuple[torch.Tensor, ...]:
        assert not torch.is_grad_enabled()
        if self.breaks is not None:
            raise self.breaks
        self.runs += 1
        self.clock.now += self.seconds / 4
        return torch.zeros(1), torch.zeros(1), torch.zeros(1)

    def bwd(self, *arguments: object) -> None:
        self.clock.now += self.seconds * 3 / 4


@pytest.fixture
def rooms(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[dict[str, Kernels]]:
    """The CPU's backends with a faster reference, a temporary cache, and measuring enabled."""
    clock = Clock()
    found = {"cpu": Kernels("cpu", 2.0, clock), "reference": Kernels("reference", 1.0, clock)}
    monkeypatch.setattr(registry, "find", lambda op, name: found[name])
    monkeypatch.setattr(registry, "_module", lambda op, name: found[name])
    monkeypatch.setattr(autotune, "time", clock)
    monkeypatch.setattr(autotune, "memory_file", lambda device: tmp_path / "backends.json")
    monkeypatch.setenv("FASTINPAINT_TUNE", "1")
    monkeypatch.delenv(registry.VARIABLE, raising=False)
    forget()
    yield found
    forget()


def forget() -> None:
    autotune._memory.cache_clear()
    autotune._lookup.cache_clear()


def test_tuning_measures_a_shape_once_and_auto_reads_it(
    rooms: dict[str, Kernels], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert registry.choose("conv_block", None, CPU, *arguments()) is rooms["reference"]
    assert [room.runs for room in rooms.values()] == [autotune.ROUNDS + 1] * 2
    for _ in range(2):
        assert registry.choose("conv_block", None, CPU, *arguments(7)) is rooms["reference"]
    assert [room.runs for room in rooms.values()] == [2 * (autotune.ROUNDS + 1)] * 2
    monkeypatch.delenv("FASTINPAINT_TUNE")
    forget()
    with caplog.at_level(logging.DEBUG, "fastinpaint.ops.dispatch.registry"):
        assert registry.choose("conv_block", "auto", CPU, *arguments()) is rooms["reference"]
    assert "conv_block: reference, measured as the fastest here" in caplog.text
    assert registry.choose("conv_block", None, CPU, *arguments(5)) is rooms["cpu"], "another shape: the usual order"
    assert rooms["cpu"].runs == 2 * (autotune.ROUNDS + 1)
    assert list(json.loads((tmp_path / "backends.json").read_text()).values()) == ["reference"] * 2
    assert autotune.counts(CPU) == {"reference": 2}


def test_the_flag_the_name_and_the_variable_go_before_measurements(
    rooms: dict[str, Kernels], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.choose("conv_block", None, CPU, *arguments())
    assert registry.choose("conv_block", "cpu", CPU, *arguments()) is rooms["cpu"]
    with monkeypatch.context() as patch:
        patch.setenv(registry.VARIABLE, "cpu")
        assert registry.choose("conv_block", None, CPU, *arguments()) is rooms["cpu"]
    with monkeypatch.context() as patch:
        patch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
        assert registry.choose("conv_block", None, CPU, *arguments()) is rooms["cpu"]
    monkeypatch.setenv("FASTINPAINT_TUNE", "0")
    assert registry.choose("conv_block", None, CPU, *arguments()) is rooms["cpu"]


def test_a_measured_backend_that_cannot_run_now_is_not_taken(
    rooms: dict[str, Kernels], monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.choose("conv_block", None, CPU, *arguments())
    monkeypatch.delenv("FASTINPAINT_TUNE")
    rooms["reference"].reason = "it is Tuesday."
    assert registry.choose("conv_block", None, CPU, *arguments()) is rooms["cpu"]


def test_what_cannot_run_or_fails_is_not_measured(rooms: dict[str, Kernels], caplog: pytest.LogCaptureFixture) -> None:
    rooms["reference"].reason = "it is Tuesday."
    assert registry.choose("conv_block", None, CPU, *arguments()) is rooms["cpu"]
    assert rooms["reference"].runs == 0
    rooms["reference"].reason, rooms["reference"].breaks = None, RuntimeError("out of memory\nand so on")
    assert registry.choose("conv_block", None, CPU, *arguments(4)) is rooms["cpu"]
    assert "conv_block: reference is left out: out of memory" in caplog.messages


def test_nothing_is_measured_unasked_traced_or_recorded(
    rooms: dict[str, Kernels], monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch._subclasses.FakeTensorMode():
        assert registry.choose("conv_block", None, CPU, *arguments()) is rooms["cpu"]
    recorded = SimpleNamespace(is_cuda=True, device=CPU)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    monkeypatch.setattr(autotune, "Tensor", SimpleNamespace)
    assert not autotune.can_measure(recorded)  # type: ignore[arg-type]
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    assert autotune.can_measure(recorded)  # type: ignore[arg-type]
    monkeypatch.delenv("FASTINPAINT_TUNE")
    assert registry.choose("conv_block", None, CPU, *arguments()) is rooms["cpu"]
    assert rooms["cpu"].runs == rooms["reference"].runs == 0


def test_one_file_for_each_device_threads_and_kernels(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FASTINPAINT_CACHE", str(tmp_path))
    autotune._memory_file.cache_clear()
    files = {autotune._memory_file(*parts) for parts in (("H200", 0), ("H100", 0), ("EPYC", 1), ("EPYC", 2))}
    autotune._memory_file.cache_clear()
    assert len(files) == 4
    assert tuning_cache.read(files.pop()) == {}


@pytest.mark.skipif(isinstance(registry.find("conv_block", "cpu"), str), reason="the CPU kernels are not built")
def test_an_accelerated_model_mixes_backends_as_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whatever was measured, results and gradients are those of the plain net."""
    monkeypatch.setattr(autotune, "memory_file", lambda device: tmp_path / "backends.json")
    monkeypatch.setenv("FASTINPAINT_TUNE", "1")
    forget()
    torch.manual_seed(0)
    sizes = ((3, 6), (6, 4), (4, 2))
    layers = [layer for i, o in sizes for layer in (torch.nn.Conv2d(i, o, 3), torch.nn.BatchNorm2d(o))]
    net = torch.nn.Sequential(*layers)
    net.double()
    x = torch.rand(2, 3, 12, 12, dtype=torch.float64)
    expected = net(x).square().sum()
    grads = torch.autograd.grad(expected, list(net.parameters()))
    times = itertools.cycle([1.0, 2.0, 2.0, 1.0])  # cpu wins the first, reference the second, and so on
    monkeypatch.setattr(autotune, "_seconds", lambda run, device: next(times))
    fastinpaint.accelerate(net)
    for _ in range(2):
        loss = net(x).square().sum()
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(torch.autograd.grad(loss, list(net.parameters())), grads)
    assert set(autotune._memory(tmp_path / "backends.json").values()) == {"cpu", "reference"}
    forget()


def test_times_in_tf32_and_exact_are_apart_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    sources, weight, geometry = arguments()
    on_gpu = SimpleNamespace(is_cuda=True, dtype=torch.float32, shape=weight.shape)
    keys = {}
    for tf32 in (False, True):
        monkeypatch.setattr(autotune, "tf32_convolutions", lambda tf32=tf32: tf32)
        keys[tf32] = [autotune._key(sources, w, geometry) for w in (weight, on_gpu)]  # type: ignore[arg-type]
    assert keys[False][0] == keys[True][0]
    assert keys[False][1] != keys[True][1]


def test_triton_kernels_that_do_not_compile_are_not_measured(
    rooms: dict[str, Kernels], caplog: pytest.LogCaptureFixture
) -> None:
    errors = pytest.importorskip("triton.runtime.errors")
    rooms["reference"].breaks = errors.OutOfResources(300, 227, "shared memory")
    assert registry.choose("conv_block", None, CPU, *arguments()) is rooms["cpu"]
    assert any(text.startswith("conv_block: reference is left out: out of resource") for text in caplog.messages)


class Device:
    """A fake GPU clock: launched and replayed work takes time, the host's seconds do not count."""

    def __init__(self, clock: Clock, captures: bool) -> None:
        self.clock, self.captures = clock, captures
        self.now, self.replays = 0.0, 0

    def run(self) -> None:
        """Slow on the host, quick on the device."""
        self.clock.now += 5.0
        self.now += 0.25

    def Event(self, enable_timing: bool) -> SimpleNamespace:
        event = SimpleNamespace(at=0.0, synchronize=lambda: None)
        event.record = lambda: setattr(event, "at", self.now)
        event.elapsed_time = lambda end: 1e3 * (end.at - event.at)
        return event

    def CUDAGraph(self) -> SimpleNamespace:
        return SimpleNamespace(replay=self.replay)

    def replay(self) -> None:
        self.replays += 1
        self.now += 0.25

    @contextlib.contextmanager
    def graph(self, graph: object) -> Iterator[None]:
        yield
        if not self.captures:
            raise RuntimeError("operation not permitted when stream is capturing\nand more")

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(autotune, "time", self.clock)
        for name in ("Event", "CUDAGraph", "graph"):
            monkeypatch.setattr(torch.cuda, name, getattr(self, name))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())


@pytest.mark.parametrize("captures", [True, False])
def test_a_gpu_is_timed_by_its_own_clock(monkeypatch: pytest.MonkeyPatch, captures: bool) -> None:
    device = Device(Clock(), captures)
    device.install(monkeypatch)
    assert autotune._seconds(device.run, torch.device("cuda")) == pytest.approx(0.25)
    assert device.replays == (autotune.ROUNDS * autotune.REPEATS if captures else 0)
