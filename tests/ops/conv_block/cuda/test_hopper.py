"""The wgmma path: its accuracy (emulated without a Hopper GPU), the layers it runs, and its compiled code."""

from __future__ import annotations

import ctypes
import re
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fastinpaint.ops.conv_block import cuda
from fastinpaint.ops.dispatch import native_cuda
from tests.ops.conv_block.cuda import hopper_probe, wgmma
from tests.ops.cuda import small_cases
from tests.ops.cuda.schedules import same_bits
from tests.ops.cuda.small_cases import Conv
from tools.inspect import sass
from tools.inspect.counting import counts
from tools.inspect.paper_layers import paper_layers
from tools.verify import emulated
from tools.verify.emulated import Plant

SOURCE = "conv_block/cuda/hopper/fwd_dgrad.cu"
CASES = (
    *("2d", "stride 2, two sources", "dilation 4, dead taps", "dilation 16", "odd channels", "transposed 2d"),
    *("transposed 3d", "3 channels out", "large mean", "1x1, one pixel"),
)
WIDE = Conv((4, 9), (192, 64), (True, False), 136, (3, 3), (1, 1), (1, 1), (1, 1))


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
    assert found["0"][0] == found["1"][0] < found["all"][0]  # too few blocks; columns padded to 128, not to 8
    assert torch.equal(found["0"][1], found["1"][1])
    assert torch.allclose(found["0"][1], found["all"][1], rtol=1e-2, atol=1e-2)


def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.zeros(1, 8, 4, 4)
    monkeypatch.delenv(native_cuda.HOPPER, raising=False)
    assert native_cuda.hopper(x) == 0
    monkeypatch.setenv(native_cuda.HOPPER, "yes")
    with pytest.raises(ValueError, match="FASTINPAINT_HOPPER must be one of 0, 1, all, got 'yes'"):
        native_cuda.hopper(x)


def test_it_runs_the_wide_layers() -> None:
    """Of the paper's: 256 channels on one side, 128 on the other at least, and 128 blocks; two fit an SM."""
    with emulated.installed():
        before, after = (
            {
                (c.layer, c.name): c.shared
                for layer in paper_layers()
                for c in counts(layer, hopper)
                if c.name != "wgrad"
            }
            for hopper in (0, 1)
        )
    taken = {key for key in before if before[key] != after[key]}
    wide = [*(f"3dcn.{i}" for i in (5, 6, 7, 8)), *(f"combcn.{i}" for i in range(4, 15))]
    few = {("3dcn.5", "dgrad"), ("3dcn.8", "forward")}
    assert taken == {(layer, name) for layer in wide for name in ("forward", "dgrad")} - few
    assert all(2 * (after[key] + 1024) <= 228 << 10 for key in taken)


@pytest.mark.parametrize("transposed_b", [False, True], ids=["k contiguous", "n contiguous"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_probe_gives_the_product(dtype: torch.dtype, transposed_b: bool) -> None:
    library = ctypes.CDLL(str(emulated.build(sources=[hopper_probe.SOURCE])))
    found, exact = hopper_probe.run(library, dtype, "cpu", transposed_b=transposed_b)
    assert torch.allclose(found.double(), exact, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("transposed_b", [False, True], ids=["k contiguous", "n contiguous"])
@pytest.mark.parametrize("values", ["whole", "numbered"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_register_of_the_probe_is_the_manuals(dtype: torch.dtype, values: str, transposed_b: bool) -> None:
    library = ctypes.CDLL(str(emulated.build(sources=[hopper_probe.SOURCE])))
    found, exact = hopper_probe.run(library, dtype, "cpu", values, transposed_b)
    assert torch.equal(found.double(), exact)


WGMMA = "cuda_on_cpu/wgmma.h"
LAYOUTS = {
    "rows of A": Plant(
        WGMMA, "op.rows[i & 1][2 * from + half + 8 * (i >> 1)]", "op.rows[i >> 1][2 * from + half + 8 * (i & 1)]"
    ),
    "registers of D": Plant(WGMMA, "d[n / 8 * 4 + half * 2 + i]", "d[n / 8 * 4 + half + i * 2]"),
    "transposed_b, groups of eight k": Plant(WGMMA, "k / 8 * stride", "k / 8 * leading"),
    "transposed_b, pieces of a row": Plant(WGMMA, "k % 8 * 128 + n % 64 / 8 * 16", "n % 64 / 8 * 128 + k % 8 * 16"),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_wrong_layout_of_the_emulation_is_found(name: str) -> None:
    library = ctypes.CDLL(str(emulated.build(plants=[LAYOUTS[name]], sources=[hopper_probe.SOURCE])))
    found, exact = hopper_probe.run(library, torch.bfloat16, "cpu", "numbered", transposed_b="transposed_b" in name)
    assert not torch.equal(found.double(), exact)


def test_a_transpose_bit_forgotten_is_found() -> None:
    plant = Plant(WGMMA, "issue_wgmma<T, true>", "issue_wgmma<T, false>")
    probe = "hopper_probe.run(ctypes.CDLL(os.environ['FI_LIBRARY']), torch.bfloat16, 'cpu', transposed_b=True)"
    command = [
        sys.executable,
        "-c",
        f"import ctypes, os, torch; from tests.ops.conv_block.cuda import hopper_probe; {probe}",
    ]
    done = emulated.run("plain", command, emulated.build(plants=[plant], sources=[hopper_probe.SOURCE]))
    assert done.returncode != 0
    assert "points outside shared memory" in done.stderr  # columns of 128 bytes reach beyond the tile


def test_bulk_copies_bring_every_byte_once_their_phase_is_waited_for() -> None:
    found, given = hopper_probe.run_bulk(ctypes.CDLL(str(emulated.build(sources=[hopper_probe.SOURCE]))), "cpu")
    assert torch.equal(found, given)


@pytest.mark.skipif(sass.nvcc() is None or sass.cuobjdump() is None, reason="nvcc and cuobjdump are needed")
def test_ptxas_keeps_the_wgmma_overlapped(tmp_path: Path) -> None:
    """No warning that they are serialised, no spill, and A comes from registers."""
    listing = wgmma.compiled(SOURCE, "hopper_gather_kernel", tmp_path)
    products = re.findall(r"HGMMA\.64x128x16\.F32\S* (R\d+, \w+)", listing)
    assert len(products) >= 2 * 2 * 4  # two dtypes, two halves of the tile, four k16
    assert all(re.fullmatch(r"R\d+, R\d+", operands) for operands in products)
