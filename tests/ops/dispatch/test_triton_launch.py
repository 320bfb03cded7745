"""Launches without Triton's dispatcher, of kernels compiled for a GPU; the driver's launcher notes its arguments."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch

triton = pytest.importorskip("triton")
from triton import language as tl  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.runtime import driver  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from fastinpaint.ops.dispatch import triton_launch  # noqa: E402 - needs triton
from fastinpaint.ops.dispatch.triton_launch import Launch, Launches  # noqa: E402


@triton.jit
def scale_kernel(x, bias, y, factor, n, shape: tl.constexpr, BLOCK: tl.constexpr):
    """y = factor * x, plus bias if given."""
    o = tl.arange(0, BLOCK)
    found = tl.load(x + o, mask=o < n) * factor
    if bias is not None:
        found += tl.load(bias + o, mask=o < n)
    tl.store(y + o, found, mask=o < n)


pytestmark = pytest.mark.skipif(not isinstance(scale_kernel, JITFunction), reason="kernels are interpreted")
NUMBERS = {"factor": 2.0, "n": 32, "shape": (4, 8), "BLOCK": 32, "num_warps": 1}


class Driver:
    """A driver of an H100 that is not there."""

    def __init__(self) -> None:
        self.launched: list[tuple[Any, ...]] = []
        properties = {"max_shared_mem": 227 << 10}
        self.utils = SimpleNamespace(
            load_binary=lambda *a: (1, 2, 0, 0, 1024),
            unload_module=lambda module: None,
            get_device_properties=lambda device: properties,
        )

    def launcher_cls(self, source: Any, metadata: Any) -> Any:
        return lambda *arguments: self.launched.append(arguments)

    def get_current_target(self) -> Any:
        return GPUTarget("cuda", 90, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: Any) -> int:
        return 7

    def get_active_torch_device(self) -> torch.device:
        return torch.device("meta")

    def map_python_to_cpp_type(self, kind: str) -> str:
        return kind


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    found = Driver()
    monkeypatch.setattr(driver, "_active", found)
    yield found
    scale_kernel.device_caches.clear()


def counted(launch: Launch) -> list[int]:
    """Notes each launch by the dispatcher from now on."""
    seen, dispatch = [], launch.dispatch

    def count(*tensors: Any) -> Any:
        seen.append(len(tensors))
        return dispatch(*tensors)

    launch.dispatch = count  # type: ignore[assignment]
    return seen


def tensors(bias: bool = True, dtype: torch.dtype = torch.float32) -> tuple[Any, ...]:
    return torch.zeros(32, dtype=dtype), torch.zeros(32, dtype=dtype) if bias else None, torch.zeros(32, dtype=dtype)


def test_later_launches_pass_what_the_dispatcher_passes(gpu: Driver) -> None:
    launch = Launch(scale_kernel, (3,), NUMBERS)
    seen = counted(launch)
    for _ in range(2):
        launch(*tensors())
    given = tensors()
    launch(*given)
    launch.dispatch(*given)
    assert len(seen) == 3  # two launches to learn from, and the one just made here
    direct, public = gpu.launched[-2:]
    assert direct[:6] == public[:6]  # grid, stream, function, metadata
    assert direct[:4] == (3, 1, 1, 7)
    assert direct[7:9] == public[7:9]  # hooks
    assert triton_launch.are_same(direct[9:], public[9:])
    assert len(direct) == 9 + len(scale_kernel.arg_names)


def test_each_kind_of_call_has_its_own_kernel(gpu: Driver) -> None:
    launch = Launch(scale_kernel, (1,), NUMBERS)
    kinds = [tensors(), tensors(bias=False), tensors(dtype=torch.float16)]
    for given in kinds * 2:
        launch(*given)
    seen = counted(launch)
    for given in kinds:
        launch(*given)
    assert not seen
    functions = list(launch.first.values())
    assert len({id(compiled) for compiled in functions}) == 3


def test_an_unaligned_tensor_is_dispatched(gpu: Driver) -> None:
    launch = Launch(scale_kernel, (1,), NUMBERS)
    x, bias, y = tensors()
    for _ in range(3):
        launch(x, bias, y)
    seen = counted(launch)
    launch(torch.zeros(33)[1:], bias, y)
    launch(torch.zeros(33)[1:], bias, y)
    assert len(seen) == 2
    launch(x, bias, y)
    assert len(seen) == 2


def test_hooks_and_stand_ins_are_honoured(gpu: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    launch, given, calls = Launch(scale_kernel, (1,), NUMBERS), tensors(), []
    for _ in range(3):
        launch(*given)
    with monkeypatch.context() as patch:
        patch.setattr(scale_kernel, "pre_run_hooks", [lambda *a, **k: calls.append("hook")])
        launch(*given)
    with monkeypatch.context() as patch:
        patch.setattr(JITFunction, "run", lambda *a, **k: calls.append("stand-in"))
        launch(*given)
    assert calls == ["hook", "stand-in"]
    seen = counted(launch)
    launch(*given)
    assert not seen


def test_where_the_dispatcher_passes_something_else_it_stays(gpu: Driver) -> None:
    launch, given = Launch(scale_kernel, (1,), NUMBERS), tensors()
    assert launch.constants is not None
    launch.constants = (*launch.constants[:-1], 64)
    seen = counted(launch)
    for _ in range(4):
        launch(*given)
    assert len(seen) == 4
    assert all(arguments[9 + len(scale_kernel.arg_names) - 1] == 32 for arguments in gpu.launched)


def test_launches_are_found_by_key_as_long_as_their_kernel_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Launches, "MOST", 2)
    known = Launches()
    first = known.keep(scale_kernel, (1,), (3,), NUMBERS)
    assert known.get(scale_kernel, (1,)) is first
    assert known.get(scale_kernel, (2,)) is None
    assert known.get(object(), (1,)) is None
    known.keep(scale_kernel, (2,), (3,), NUMBERS)
    third = known.keep(scale_kernel, (3,), (3,), NUMBERS)
    assert [known.get(scale_kernel, (i,)) for i in (1, 2, 3)] == [None, None, third]
