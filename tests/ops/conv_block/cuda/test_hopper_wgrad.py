"""wgrad on wgmma: its accuracy, equal bits, the layers it runs, and its compiled code."""

from __future__ import annotations

import ctypes

import pytest
import torch

from fastinpaint.ops.conv_block.cuda import abi
from fastinpaint.ops.dispatch import native_cuda
from fastinpaint.ops.types import Source
from tests.ops.conv_block.cuda import hopper_wgrad
from tests.ops.conv_block.cuda.hopper_wgrad import CASES
from tests.ops.cuda.schedules import same_bits
from tests.ops.cuda.small_cases import Conv
from tools.inspect import counting
from tools.inspect.paper_layers import paper_layers
from tools.verify import emulated

DTYPES = [torch.bfloat16, torch.float16]
SOURCE = "conv_block/cuda/hopper/launch.cu"
SHARED_LIMIT = 227 << 10  # of a block on sm_90
FEWEST = Conv((4, 6), (128,), (False,), 256, (3, 3), (1, 1), (1, 1), (1, 1))  # channels that the switch's 1 takes


def asked(conv: Conv, dtype: torch.dtype) -> counting.Footprint:
    """The footprint of the case's wgrad, under the switch as it is."""
    dy, _, _, _, _, sources, weight, geometry, *_ = hopper_wgrad.inputs(conv, dtype)
    described = abi.describe(sources, weight, geometry, dy.shape)
    described.gradient = native_cuda.c_source(native_cuda.dense_source(Source(dy)))
    found = counting.Footprint()
    assert native_cuda.library().fi_conv_wgrad_footprint(ctypes.byref(described), ctypes.byref(found)) == 0
    return found


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", CASES)
def test_it_keeps_the_rule(name: str, dtype: torch.dtype, device: str) -> None:
    assert asked(CASES[name], dtype).multiplied > 0
    hopper_wgrad.run(CASES[name], dtype, device)


@pytest.mark.usefixtures("everywhere")
def test_a_block_of_several_tiles_has_several() -> None:
    found, tiles = asked(CASES["several tiles"], torch.bfloat16), 2 * 4  # of the batch; of 8 columns
    units, columns = 3 * 4, 3  # kernel rows times 64 channels; of 128 channels
    assert found.blocks <= units // 2 * columns * tiles // 2


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("name", ["several tiles", "transposed"])
def test_two_runs_give_the_same_bits(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = hopper_wgrad.inputs(CASES[name], torch.bfloat16)
    same_bits(lambda: [hopper_wgrad.gradient(given, device)], monkeypatch)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_switch_takes_wide_layers_and_the_paths_agree(
    dtype: torch.dtype, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (reason := native_cuda.why_not_hopper()) is not None:
        pytest.skip(reason)
    given, found = hopper_wgrad.inputs(FEWEST, dtype), {}
    for value in native_cuda.HOPPER_VALUES:
        monkeypatch.setenv(native_cuda.HOPPER, value)
        found[value] = asked(FEWEST, dtype).shared_bytes, hopper_wgrad.gradient(given, device).float()
    assert found["0"][0] != found["1"][0] == found["all"][0]
    assert torch.equal(found["1"][1], found["all"][1])
    assert torch.allclose(found["0"][1], found["1"][1], rtol=1e-2, atol=1e-2 * float(found["0"][1].abs().max()))


LEFT = {
    "a patch that does not fit": Conv((40, 40), (64,), (False,), 64, (3, 3), (1, 1), (12, 12), (12, 12)),
    "thin": Conv((9, 17), (3,), (False,), 64, (3, 3), (1, 1), (1, 1), (1, 1)),
}


@pytest.mark.usefixtures("everywhere")
@pytest.mark.parametrize("name", LEFT)
def test_the_rest_is_left_to_the_ordinary_kernel(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    conv = LEFT[name]
    with_path = asked(conv, torch.bfloat16)
    monkeypatch.setenv(native_cuda.HOPPER, "0")
    without = asked(conv, torch.bfloat16)
    assert bytes(with_path) == bytes(without)
    monkeypatch.setenv(native_cuda.HOPPER, "all")
    hopper_wgrad.run(conv, torch.bfloat16, device)


def test_it_runs_the_wide_layers() -> None:
    """Of the paper's layers it runs the same as forward and dgrad."""
    with emulated.installed():
        found = [list(counting.counts(layer, 1))[-1] for layer in paper_layers()]
    taken = {count.layer: count for count in found if count.multiplied}
    assert set(taken) == {*(f"3dcn.{i}" for i in range(4, 10)), *(f"combcn.{i}" for i in range(2, 16))}
    for count in taken.values():
        assert count.name == "wgrad"
        assert count.shared <= SHARED_LIMIT
        assert count.blocks >= 80
        assert 2 * count.multiplied >= count.operations
