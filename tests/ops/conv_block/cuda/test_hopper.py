"""The wgmma path: its accuracy (emulated without a Hopper GPU), the layers it runs, and its compiled code."""

from __future__ import annotations

import ctypes
import re

import pytest
import torch
from torch import Tensor

from fastinpaint.ops.conv_block import cuda
from fastinpaint.ops.dispatch import native_cuda
from tests.ops.conv_block.cuda import hopper_probe, wgmma
from tests.ops.cuda import forks, small_cases
from tests.ops.cuda.schedules import same_bits
from tests.ops.cuda.small_cases import Conv
from tools.inspect import sass
from tools.inspect.counting import Footprint, counts
from tools.inspect.paper_layers import paper_layers
from tools.verify import emulated
from tools.verify.emulated import Plant

SOURCE = "conv_block/cuda/hopper/launch.cu"
CASES = (
    *("2d", "stride 2, two sources", "dilation 4, dead taps", "dilation 8, three chunks", "dilation 16"),
    *("stride 2, four chunks", "odd channels", "transposed 2d"),
    *("transposed 3d", "3 channels out", "large mean", "1x1, one pixel"),
)
WIDE = Conv((4, 9), (192, 64), (True, False), 136, (3, 3), (1, 1), (1, 1), (1, 1))
ODD = {
    "stride 2, 136 channels out": Conv((9, 12), (8,), (False,), 136, (3, 3), (2, 2), (1, 1), (1, 1)),
    "unpadded, 72 channels out": Conv((9, 20), (8,), (False,), 72, (3, 3), (1, 1), (0, 0), (1, 1)),
    "2x2, 72 channels out": Conv((5, 9), (8,), (False,), 72, (2, 2), (1, 1), (1, 1), (1, 1)),
    "dilation 16, 72 channels out": Conv((20, 20), (8,), (False,), 72, (3, 3), (1, 1), (16, 16), (16, 16)),
    "dilation 3": Conv((10, 12), (8, 8), (False, True), 8, (3, 3), (1, 1), (3, 3), (3, 3)),
    "1x1, stride 2": Conv((9, 20), (8,), (False,), 8, (1, 1), (2, 2), (0, 0), (1, 1)),
    "2x2": Conv((5, 5), (8,), (False,), 136, (2, 2), (1, 1), (0, 0), (1, 1)),
    "stride 2, dilation 16": Conv((20, 20), (8,), (False,), 8, (3, 3), (2, 2), (16, 16), (16, 16)),
    "transposed, stride 3": Conv((6, 6), (12,), (False,), 8, (4, 4), (3, 3), (2, 2), (1, 1), True),
    "transposed, dilation 2": Conv((6, 6), (12,), (False,), 8, (4, 4), (2, 2), (2, 2), (2, 2), True),
}
LARGE = {  # output channels and size for which a consumer has two tiles
    64: Conv((144, 130), (8,), (False,), 64, (1, 3), (1, 1), (0, 1), (1, 1)),
    72: Conv((72, 130), (8,), (False,), 72, (1, 3), (1, 1), (0, 1), (1, 1)),
}


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", CASES)
def test_kernel_keeps_the_rule(name: str, dtype: str, device: str) -> None:
    small_cases.run(name, dtype, device)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_wide_layer_keeps_the_rule(dtype: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(small_cases.CONVS, "wide", WIDE)
    small_cases.run("wide", dtype, device)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("name", ODD)
def test_odd_geometry_keeps_the_rule(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward, dgrad and wgrad."""
    monkeypatch.setitem(small_cases.CONVS, "odd", ODD[name])
    small_cases.run("odd", "bfloat16", device)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("channels", LARGE)
def test_two_tiles_of_each_consumer_keep_the_rule(channels: int, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 64 output channels all tiles are different, of more the consumers share them."""
    conv = LARGE[channels]
    monkeypatch.setitem(small_cases.CONVS, "large", conv)
    sources, weight, _, geometry = small_cases.conv_inputs(conv, torch.bfloat16)
    described, found = cuda.describe(sources, weight, geometry, (2, channels, *conv.space)), Footprint()
    assert native_cuda.library().fi_conv_footprint(ctypes.byref(described), 0, ctypes.byref(found)) == 0
    assert (found.columns, found.slices) == (64 if channels == 64 else 128, 2)
    small_cases.run("large forward", "bfloat16", device)


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("name", ["stride 2, two sources", "transposed 2d"])
def test_two_runs_give_the_same_bits(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = small_cases.conv_inputs(small_cases.CONVS[name], torch.bfloat16)
    sources, weight, bias, geometry = (small_cases.moved(v, device) for v in inputs)

    def run() -> list[Tensor]:
        y, mean, var = cuda.fwd(sources, weight, bias, geometry, True)
        grads, *_ = cuda.bwd(y, mean, var, y, mean, sources, weight, geometry, [True] * len(sources), False, False)
        return [y, mean, var, *(t for g in grads for t in g if t is not None)]

    same_bits(run, monkeypatch)


def test_the_paths_differ_and_agree(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if (reason := native_cuda.why_not_hopper()) is not None:
        pytest.skip(reason)
    sources, weight, bias, geometry = (small_cases.moved(v, device) for v in small_cases.conv_inputs(WIDE, torch.half))
    found = {}
    for value in native_cuda.HOPPER_VALUES:
        monkeypatch.setenv(native_cuda.HOPPER, value)
        conv = cuda.describe(sources, weight, geometry, (2, WIDE.channels, *WIDE.space))
        size = native_cuda.library().fi_conv_workspace(ctypes.byref(conv), 0)
        found[value] = size, cuda.fwd(sources, weight, bias, geometry, False)[0].float()
    assert found["0"][0] < found["1"][0] == found["all"][0]  # the strips
    assert torch.equal(found["1"][1], found["all"][1])
    assert torch.allclose(found["0"][1], found["all"][1], rtol=1e-2, atol=1e-2)


def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, 8, 4, 4)
    monkeypatch.delenv(native_cuda.HOPPER, raising=False)
    assert native_cuda.hopper(x) == 0
    monkeypatch.setenv(native_cuda.HOPPER, "yes")
    with pytest.raises(ValueError, match="FASTINPAINT_HOPPER must be one of 0, 1, all, got 'yes'"):
        native_cuda.hopper(x)


def test_it_runs_the_wide_layers() -> None:
    """Of the paper's: 128 channels on one side and 64 on the other at least; a block fits an SM."""
    with emulated.installed():
        found = {(c.layer, c.name): c for layer in paper_layers() for c in counts(layer, 1) if c.name != "wgrad"}
    wide = [*(f"3dcn.{i}" for i in range(4, 10)), *(f"combcn.{i}" for i in range(2, 16))]
    assert {key for key, c in found.items() if c.multiplied} == {(n, k) for n in wide for k in ("forward", "dgrad")}
    assert all(c.shared <= 227 << 10 for c in found.values())
    assert all(2 * c.multiplied >= c.operations for c in found.values() if c.multiplied)
    # the smallest grids have blocks of 64 output channels
    assert [found["3dcn.8", "forward"].columns, found["3dcn.8", "forward"].blocks] == [64, 128]


@pytest.mark.parametrize("mn_major", [False, True], ids=["K-major", "MN-major"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_probe_gives_the_product(dtype: torch.dtype, mn_major: bool) -> None:
    library = ctypes.CDLL(str(emulated.build(sources=[hopper_probe.SOURCE])))
    found, exact = hopper_probe.run(library, dtype, "cpu", mn_major=mn_major)
    assert torch.allclose(found.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mn_major", [False, True], ids=["K-major", "MN-major"])
@pytest.mark.parametrize("values", ["whole", "numbered"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_register_of_the_probe_is_the_manuals(dtype: torch.dtype, values: str, mn_major: bool) -> None:
    library = ctypes.CDLL(str(emulated.build(sources=[hopper_probe.SOURCE])))
    found, exact = hopper_probe.run(library, dtype, "cpu", values, mn_major)
    assert torch.equal(found.double(), exact)


WGMMA = "cuda_on_cpu/wgmma.h"
LAYOUTS = {
    "LBO and SBO exchanged": Plant(WGMMA, "/ 8 * stride + k / 8 * leading + k", "/ 8 * leading + k / 8 * stride + k"),
    "rows of A": Plant(WGMMA, "left[lane / 4 + half * 8]", "left[lane / 4 * 2 + half]"),
    "registers of D": Plant(WGMMA, "d[n / 8 * 4 + half * 2 + i]", "d[n / 8 * 4 + half + i * 2]"),
    "the major forgotten": Plant(WGMMA, "      mn_major ? keep_row", "      !mn_major ? keep_row"),
}


@pytest.mark.parametrize("mn_major", [False, True], ids=["K-major", "MN-major"])
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_wrong_layout_of_the_emulation_is_found(name: str, mn_major: bool) -> None:
    """By a wrong number, or because it reads the gaps that no copy brings."""
    library = emulated.build(plants=[LAYOUTS[name]], sources=[hopper_probe.SOURCE], optimised=False)
    done = forks.run("plain", hopper_probe.__name__, [str(mn_major)], {"FI_LIBRARY": str(library)})
    assert done.returncode == 3 or "outside shared memory" in done.stderr or "no bulk copy" in done.stderr, done.stderr


def test_bulk_copies_bring_every_byte_once_their_phase_is_waited_for() -> None:
    found, given = hopper_probe.run_bulk(ctypes.CDLL(str(emulated.build(sources=[hopper_probe.SOURCE]))), "cpu")
    assert torch.equal(found, given)


@pytest.fixture(scope="module")
def listing(tmp_path_factory: pytest.TempPathFactory) -> str:
    if sass.nvcc() is None or sass.cuobjdump() is None:
        pytest.skip("nvcc and cuobjdump are needed")
    kernels = {"hopper_gather_kernel": (1, 2), "hopper_wgrad_kernel": (1, 2, 3)}
    return wgmma.compiled(SOURCE, kernels, tmp_path_factory.mktemp("sm_90a"))


# Two dtypes; four k16 of one and of two tiles; eight k16 of one, two and three taps.
@pytest.mark.parametrize(
    ("kernel", "operand", "least"),
    [
        ("hopper_gather_kernel", r"gdesc\[UR\d+\]", 2 * (4 + 8)),
        ("hopper_wgrad_kernel", r"gdesc\[UR\d+\]\.tnspA\.tnspB", 2 * 8 * (1 + 2 + 3)),
    ],
)
def test_ptxas_keeps_the_wgmma_overlapped(kernel: str, operand: str, least: int, listing: str) -> None:
    """No warning that they are serialised, no spill; both factors come from shared memory, wgrad's MN-major."""
    functions = [text for text in listing.split("Function : ")[1:] if kernel in text.partition("\n")[0]]
    products = re.findall(r"HGMMA\.64x128x16\.F32\S* R\d+, (\S+),", "".join(functions))
    assert len(products) >= least
    assert all(re.fullmatch(operand, found) for found in products)
