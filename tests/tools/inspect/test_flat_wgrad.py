"""The study of wgrad as flat products: correct when interpreted, and with a high bound by its machine code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

from tools.inspect import rates, sass_bound, sass_text

CASES = """
import torch
from torch.nn.grad import conv2d_weight
from tools.inspect.probes.flat_wgrad import weight_gradient
torch.manual_seed(0)
a, g = torch.randn(2, 24, 7, 9), torch.randn(2, 40, 7, 9)
for dilation, splits, taps in ((1, 1, 3), (2, 3, 3), (8, 2, 3), (1, 2, 5), (1, 2, 1)):
    padding = dilation * (taps // 2)
    expected = conv2d_weight(a.double(), (40, 24, taps, taps), g.double(), padding=padding, dilation=dilation)
    found = weight_gradient(a, g, taps, dilation, splits, (16, 32, 16))
    print(float((found - expected).abs().max() / expected.abs().max()))
"""


def errors(cases: str) -> list[float]:
    """Of the largest value, by case, in a process that interprets."""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-c", cases]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert found.returncode == 0, found.stderr
    return [float(line) for line in found.stdout.split()]


def test_it_is_the_gradient_where_it_is_interpreted() -> None:
    """Against float64; the largest error of these cases is 1.4e-7."""
    found = errors(CASES)
    assert len(found) == 5
    assert max(found) < 1e-6


@pytest.mark.skipif(sass_text.tool("nvdisasm") is None, reason="there is no nvdisasm.")
def test_its_loop_can_reach_what_a_product_of_matrices_can() -> None:
    from tools.inspect.probes import flat_wgrad

    tool = sass_text.tool("nvdisasm")
    assert tool is not None
    _, graph = sass_bound.find_kernel(sass_text.disassemble(tool, flat_wgrad.compiled()), "flat_wgrad")
    copied = sass_bound.tiles(*flat_wgrad.TILE)
    found = sass_bound.loop_cost(sass_bound.main_loop(graph), flat_wgrad.WARPS, rates.CHIPS["sm_90"], copied=copied)
    assert found.bound >= 0.8
    assert found.busy["issue"] < 0.2 * found.tensor
