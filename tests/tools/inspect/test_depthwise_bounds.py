"""The committed table of the depthwise kernels' shares of the memory's bandwidth: complete, and still true."""

from __future__ import annotations

import pytest

from tools.inspect import depthwise_bounds, rates, sass_text
from tools.nvcc import find_nvcc

NEEDED = None if find_nvcc() and sass_text.tool("nvdisasm") else "there is no nvcc or nvdisasm."
LEAST = {"sm_80": 0.65, "sm_89": 1.0, "sm_90": 0.40}  # of 3x3 kernels


def rows() -> list[list[str]]:
    lines = depthwise_bounds.PAGE.read_text().splitlines()
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "x" in line and line.startswith("| ")]


def test_the_table_is_complete_and_nothing_spills() -> None:
    found = {(name, kernel, arch): cells for name, kernel, arch, *cells in rows()}
    wanted = {(name, f"{k}x{k}", arch) for name in depthwise_bounds.PASSES for k in (3, 5, 7) for arch in rates.CHIPS}
    assert found.keys() == wanted
    assert {cells[4] for cells in found.values()} == {"0"}
    for (_, kernel, arch), cells in found.items():
        assert kernel != "3x3" or float(cells[0]) >= LEAST[arch]


@pytest.mark.slow
@pytest.mark.skipif(NEEDED is not None, reason=str(NEEDED))
@pytest.mark.parametrize("arch", rates.CHIPS)
def test_the_shares_are_those_of_the_machine_code(arch: str) -> None:
    committed = {(name, kernel, chip): float(share) for name, kernel, chip, share, *_ in rows()}
    for row in depthwise_bounds.shares(arch):
        assert row.share == pytest.approx(committed[row.name, f"{row.kernel}x{row.kernel}", arch], abs=0.01)
