"""The host code of the `library` backend, which needs a GPU, on the CPU with the reference's elementwise functions."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from fastinpaint.ops.activation import reference as elementwise
from fastinpaint.ops.conv_block import library, reference
from fastinpaint.ops.dispatch import registry
from fastinpaint.ops.types import Geometry, Source, SourceGrad
from fastinpaint.testing import fuzz
from tools.inspect import step_bytes


def test_why_not_without_a_gpu() -> None:
    conv = nn.Conv2d(2, 2, 1)
    reason = registry.why_not("conv_block", "library", [], conv.weight, None)
    assert reason == "the library backend needs tensors on a cuda device, got one on cpu."


@pytest.mark.filterwarnings("ignore:var_mean:UserWarning")
def test_random_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elementwise, "batch_stats", reference.batch_stats, raising=False)
    monkeypatch.setattr(library, "why_not", lambda *args: None)
    monkeypatch.setattr(library, "_elementwise", lambda x: elementwise)
    ran, wrong, _ = fuzz.fuzz(seed=4, count=40, backend="library", dtypes=(torch.float64, torch.float32))
    assert not wrong, "\n".join(wrong)
    assert ran == 40


class Counted:
    """Elementwise functions that count the kernels they replace, one per source."""

    def __init__(self) -> None:
        self.kernels = 0

    def fwd(self, sources: Sequence[Source]) -> Tensor:
        self.kernels += len(sources) if sources[0].scale is None or sources[0].relu else 1
        return elementwise.fwd(sources)

    def bwd(self, da: Tensor, sources: Sequence[Source], needs: Sequence[bool]) -> list[SourceGrad]:
        self.kernels += sum(needs)
        return elementwise.bwd(da, sources, needs)

    def batch_stats(self, y: Tensor) -> tuple[Tensor, Tensor]:
        self.kernels += 1
        return reference.batch_stats(y)


@pytest.mark.filterwarnings("ignore:var_mean:UserWarning")
@pytest.mark.parametrize("name", step_bytes.PATTERNS)
def test_a_step_has_the_passes_that_the_table_says(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other operator of torch reads or writes a map."""
    pattern, counted = step_bytes.PATTERNS[name], Counted()
    monkeypatch.setattr(library, "_elementwise", lambda x: counted)
    geometry = Geometry((1, 1), (1, 1), (1, 1), (0, 0))
    sources = []
    for _ in range(pattern.sources):
        x = torch.randn(2, 8, 6, 6).contiguous(memory_format=torch.channels_last)
        vectors = torch.randn(3, 8) if pattern.deferred else [None] * 3
        sources.append(Source(x, *vectors, pattern.deferred, torch.randn_like(x) if pattern.addend else None))
    weight = torch.randn(8, 8 * pattern.sources, 3, 3)
    y, mean, var = library.fwd(sources, weight, None, geometry, pattern.stats)
    library.bwd(
        torch.randn_like(y), mean, var, y, mean, sources, weight, geometry, [True] * pattern.sources, True, False
    )
    assert counted.kernels == step_bytes.elementwise("library", pattern).kernels


def test_the_gradient_of_a_bias_widens_no_map(monkeypatch: pytest.MonkeyPatch) -> None:
    """bfloat16 is summed in float32 as it is read."""
    dy = torch.full((2, 3, 32, 32), 1 / 3, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    x, weight = torch.zeros(2, 1, 32, 32, dtype=torch.bfloat16), torch.zeros(3, 1, 1, 1, dtype=torch.bfloat16)
    geometry = Geometry((1, 1), (0, 0), (1, 1), (0, 0))
    with Widened() as seen:
        _, _, dbias = library.bwd(dy, None, None, None, None, [Source(x)], weight, geometry, [False], False, True)
    assert not seen.maps
    assert dbias is not None
    torch.testing.assert_close(dbias.float(), dy.double().sum((0, 2, 3)).float(), rtol=1e-2, atol=0)


class Widened(TorchDispatchMode):
    """Records maps that operators create in a wider dtype."""

    maps = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.dtype == torch.float32 and result.numel() > 100:
            self.maps += 1
        return result
