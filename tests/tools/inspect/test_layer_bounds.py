"""The committed bounds contain every wide layer, no row falls, and rows that fall are named."""

from __future__ import annotations

import re

import pytest

from tools.inspect import layer_bounds, rates, sass_text
from tools.inspect.layer_bounds import Row
from tools.nvcc import find_nvcc
from tools.verify import emulated

NEEDED = emulated.why_not() or (None if find_nvcc() and sass_text.tool("nvdisasm") else "there is no nvcc or nvdisasm.")


def row(bound: float, layer: str = "combcn.5") -> Row:
    return Row(layer, "forward", "cuda", "sm_90", "kernel", bound, "issue", 1.0, {}, 64, 0, 0, 1, 1, 1.0)


def test_a_row_that_falls_or_goes_is_named() -> None:
    before = {r.key: r for r in (row(0.5), row(0.4, "combcn.6"))}
    assert layer_bounds.fallen([row(0.495), row(0.9, "combcn.6")], before) == []
    assert layer_bounds.fallen([row(0.48)], before) == [
        "combcn.6 forward cuda sm_90 is gone.",
        "combcn.5 forward cuda sm_90 fell from 0.50 to 0.48, by issue.",
    ]


def test_the_table_has_every_pass_of_every_wide_layer() -> None:
    rows = layer_bounds.committed().values()
    layers = {layer.name for layer in layer_bounds.wide_layers()}
    assert len(layers) == 20
    wanted = {(name, kind, "cuda", arch) for name in layers for kind in PASSES for arch in rates.CHIPS}
    found = {(r.layer, r.name, r.path, r.arch) for r in rows}
    assert wanted <= found
    of_triton = {(name, kind, "triton", "sm_90") for name in layers for kind in PASSES}
    assert found & of_triton in (set(), of_triton), "some of Triton's rows are missing"
    assert all(0 < r.bound <= 1 and r.spills == 0 for r in rows)
    page = layer_bounds.PAGE.read_text()
    assert layer_bounds.markdown(list(rows)) in page


PASSES = ("forward", "dgrad", "wgrad")
LEAST = {("cuda, wgmma", "sm_90"): 0.80, ("cuda", "sm_80"): 0.65, ("cuda", "sm_89"): 0.65}


@pytest.mark.parametrize(("path", "arch"), LEAST)
def test_every_pass_can_reach_its_share_of_the_peak(path: str, arch: str) -> None:
    rows = [row for row in layer_bounds.committed().values() if (row.path, row.arch) == (path, arch)]
    assert len(rows) == 20 * len(PASSES)
    assert not [row.key for row in rows if row.bound < LEAST[path, arch]]


@pytest.mark.skipif(NEEDED is not None, reason=str(NEEDED))
@pytest.mark.parametrize(
    ("arch", "hopper"), [("sm_90", 1), *(pytest.param(arch, 0, marks=pytest.mark.slow) for arch in rates.CHIPS)]
)
def test_no_row_falls(arch: str, hopper: int) -> None:
    """Compiled again and read again; the rows of Triton's kernels are held by `make gpu-bounds`."""
    with emulated.installed():
        rows = list(layer_bounds.cuda_rows(arch, hopper))
    path = "cuda, wgmma" if hopper else "cuda"
    before = {key: r for key, r in layer_bounds.committed().items() if (r.path, r.arch) == (path, arch)}
    assert before
    assert layer_bounds.fallen(rows, before) == []


@pytest.mark.skipif(NEEDED is not None, reason=str(NEEDED))
def test_the_estimate_is_of_the_committed_rows() -> None:
    rows = list(layer_bounds.committed().values())
    text = layer_bounds.estimate(rows)
    assert "Estimated from machine code" in text
    assert all(f"  {path:12} at least" in text for path in {row.path for row in rows})
    found = dict(re.findall(r"(?m)^  (\S.*?) +at least +(\S+) ms", text))
    assert float(found["cuda, wgmma"]) <= 6
