"""The wgmma path on a Hopper GPU: its instructions compared with the emulation, and the wide layers."""

from __future__ import annotations

import ctypes
import subprocess

import pytest
import torch

from fastinpaint.ops.conv_block import cuda
from fastinpaint.ops.dispatch import native_cuda
from tests.ops.conv_block.cuda import hopper_probe, hopper_wgrad
from tests.ops.cuda import small_cases
from tests.ops.cuda.small_cases import Conv
from tools.inspect import sass
from tools.verify import emulated

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(native_cuda.why_not_hopper() is not None, reason=str(native_cuda.why_not_hopper())),
]
DTYPES = [torch.bfloat16, torch.float16]
WIDE = {
    "256 to 256": Conv((32, 32), (256,), (False,), 256, (3, 3), (1, 1), (1, 1), (1, 1)),
    "256 and 256 to 256, dilation 16": Conv(
        (32, 32), (256, 256), (False, False), 256, (3, 3), (1, 1), (16, 16), (16, 16)
    ),
    "128 to 256, stride 2": Conv((64, 64), (128,), (True,), 256, (3, 3), (2, 2), (1, 1), (1, 1)),
    "256 and 256 to 128, transposed": Conv(
        (32, 32), (256, 256), (True, False), 128, (4, 4), (2, 2), (1, 1), (1, 1), True
    ),
    "3d, 256 to 256, dilation 4": Conv((4, 16, 16), (256,), (False,), 256, (3, 3, 3), (1, 1, 1), (1, 4, 4), (1, 4, 4)),
}


@pytest.fixture(scope="module")
def probe(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The probe, compiled by nvcc."""
    if (nvcc := sass.nvcc()) is None:
        pytest.skip("there is no nvcc to compile the probe with")
    library = tmp_path_factory.mktemp("probe") / "probe.so"
    source = emulated.ROOT / "csrc" / hopper_probe.SOURCE
    command = [nvcc, "-std=c++17", "-O3", "-shared", "-Xcompiler=-fPIC", "-gencode=arch=compute_90a,code=sm_90a"]
    subprocess.run([*command, f"-I{emulated.ROOT / 'csrc'}", str(source), "-o", str(library)], check=True)
    return ctypes.CDLL(str(library))


MN_MAJOR = pytest.mark.parametrize("mn_major", [False, True], ids=["K-major", "MN-major"])


@MN_MAJOR
@pytest.mark.parametrize("dtype", DTYPES)
def test_wgmma_barriers_and_copies_do_what_the_emulation_says(
    probe: ctypes.CDLL, dtype: torch.dtype, mn_major: bool
) -> None:
    found, exact = hopper_probe.run(probe, dtype, "cuda", mn_major=mn_major)
    assert torch.allclose(found.double(), exact, rtol=1e-3, atol=1e-3)
    if emulated.why_not() is None:
        library = ctypes.CDLL(str(emulated.build(sources=[hopper_probe.SOURCE])))
        expected = hopper_probe.run(library, dtype, "cpu", mn_major=mn_major)[0]
        assert torch.allclose(found, expected, rtol=1e-3, atol=1e-3)


@MN_MAJOR
@pytest.mark.parametrize("values", ["whole", "numbered"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_register_is_the_manuals(probe: ctypes.CDLL, dtype: torch.dtype, values: str, mn_major: bool) -> None:
    found, exact = hopper_probe.run(probe, dtype, "cuda", values, mn_major)
    assert torch.equal(found.double(), exact)  # as the emulation's are, in tests/ops/conv_block/cuda/test_hopper.py


def test_bulk_copies_bring_every_byte_once_their_phase_is_waited_for(probe: ctypes.CDLL) -> None:
    found, given = hopper_probe.run_bulk(probe, "cuda")
    assert torch.equal(found, given)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", WIDE)
def test_wide_layers_keep_the_rule(name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native_cuda.HOPPER, "all")
    monkeypatch.setitem(small_cases.CONVS, name, WIDE[name])
    small_cases.run(name, dtype, "cuda")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", hopper_wgrad.CASES)
def test_weight_gradients_keep_the_rule(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native_cuda.HOPPER, "all")
    hopper_wgrad.run(hopper_wgrad.CASES[name], dtype, "cuda")


@pytest.mark.parametrize("name", WIDE)
def test_both_paths_agree_and_a_graph_replays_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = small_cases.conv_inputs(WIDE[name], torch.bfloat16)
    sources, weight, bias, geometry = (small_cases.moved(v, "cuda") for v in inputs)

    def results() -> list[torch.Tensor]:
        y, mean, var = cuda.fwd(sources, weight, bias, geometry, True)
        needs = [True] * len(sources)
        grads, dweight, _ = cuda.bwd(y, mean, var, y, mean, sources, weight, geometry, needs, True, False)
        return [t for t in (y, mean, var, dweight, *(t for g in grads for t in g)) if t is not None]

    monkeypatch.setenv(native_cuda.HOPPER, "0")
    ordinary = results()
    monkeypatch.setenv(native_cuda.HOPPER, "all")
    expected = results()
    for first, second in zip(expected, ordinary, strict=True):
        assert torch.allclose(first.float(), second.float(), rtol=2e-2, atol=2e-2 * float(second.abs().max()))
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = results()
    for tensor in found:
        tensor.fill_(torch.nan)
    graph.replay()
    torch.cuda.synchronize()
    for first, second in zip(found, expected, strict=True):
        assert torch.equal(first, second)
