"""The compiled CUDA kernels: no spills, two blocks per SM, tensor-core instructions; and the table in the docs."""

from __future__ import annotations

import subprocess

import pytest

from fastinpaint.ops.dispatch import native
from tools.inspect import sass


def test_symbols_are_read() -> None:
    assert (
        sass.demangled("_ZN2fi13gather_kernelI13__nv_bfloat16Li64EEEvNS_12GatherParamsEi") == "gather_kernel<bf16, 64>"
    )
    assert sass.demangled("_ZN2fi12wgrad_kernelIfLi32ELb1EEEvNS_11WgradParamsEi") == "wgrad_kernel<float, 32, 1>"
    assert sass.demangled("_ZN2fi13gather_kernelINS_4Tf32ELi64EEEvNS_12GatherParamsEi") == "gather_kernel<tf32, 64>"
    assert sass.demangled("_ZN2fi11pack_kernelI6__halfEEvPKT_") == "pack_kernel<half>"


def test_a_spill_and_a_missing_instruction_are_named() -> None:
    counts = dict.fromkeys(sass.COUNTED, 0) | {"HMMA": 8, "LDSM": 4, sass.LOAD: 6, sass.STORE: 6}
    kernel = sass.Kernel("gather_kernel<bf16, 64>", "sm_80", 200, 0, counts)
    assert kernel.complaint() == "gather_kernel<bf16, 64> for sm_80 has no LDGSTS."
    tf32 = kernel._replace(name="wgrad_kernel<tf32, 64, 0>", counts=counts | {sass.TF32: 0})
    assert tf32.complaint() == "wgrad_kernel<tf32, 64, 0> for sm_80 has no HMMA.1688.F32.TF32."
    kernel = kernel._replace(counts=counts | {"LDGSTS": 2, "STL": 3})
    assert kernel.complaint() == "gather_kernel<bf16, 64> for sm_80 spills: 3 stores, 0 loads."
    kernel = kernel._replace(counts=counts | {"LDGSTS": 2}, registers=256 + 8)
    assert "264 registers" in str(kernel.complaint())


def test_a_store_in_pieces_is_named() -> None:
    kernel = sass.Kernel("pack_hopper_kernel<bf16>", "sm_90a", 32, 0, dict.fromkeys(sass.COUNTED, 0) | {sass.LOAD: 1})
    assert kernel.complaint() == "pack_hopper_kernel<bf16> for sm_90a has no STG.E.128."
    assert kernel._replace(name="finish_moments_kernel").complaint() is None


def test_a_load_behind_a_store_is_named() -> None:
    counts = dict.fromkeys(sass.COUNTED, 0) | {sass.LOAD: 14, sass.STORE: 4, sass.AHEAD: 14}
    kernel = sass.Kernel("activation_fwd_kernel<bf16>", "sm_80", 79, 0, counts)
    assert kernel.complaint() is None
    assert "8 LDG.E.128 before the first STG.E.128" in str(kernel._replace(counts=counts | {sass.AHEAD: 8}).complaint())


def test_serialised_wgmma_are_named() -> None:
    counts = dict.fromkeys(sass.COUNTED, 1) | {"HGMMA": 8, "STL": 0, "LDL": 0, "WARPGROUP.DEPBAR": 8}
    kernel = sass.Kernel("hopper_gather_kernel<bf16, 2>", "sm_90a", 168, 0, counts)
    assert "waits for every wgmma" in str(kernel.complaint())
    counts["WARPGROUP.DEPBAR"] = 3
    assert kernel.complaint() is None
    assert "has no UBLKCP" in str(kernel._replace(counts=counts | {"UBLKCP": 0}).complaint())


def test_the_library_has_no_more_kernels_than_it_may() -> None:
    """Each takes about a CPU-second to compile; `test_compiled_kernels` holds the page to the library."""
    rows = [line.split("|")[1:3] for line in sass.PAGE.read_text().splitlines() if line.startswith("| ")]
    found = [sum(where.strip() == architecture for _, where in rows) for architecture in sass.ARCHITECTURES]
    assert all(0 < here <= most for here, most in zip(found, MOST_KERNELS, strict=True)), found


MOST_KERNELS = (65, 79, 65)  # by architecture


@pytest.mark.slow
@pytest.mark.skipif(sass.why_not() is not None, reason=str(sass.why_not()))
def test_compiled_kernels() -> None:
    found = sass.kernels(native.HERE / "libfastinpaint_cuda.so")
    assert found
    assert not [c for kernel in found if (c := kernel.complaint())]
    page = sass.PAGE.read_text()
    documented = {line.split("|")[1].strip() for line in page.splitlines() if line.startswith("| ")}
    assert {kernel.name for kernel in found} <= documented
    if f"by nvcc {nvcc_release()} " in page:  # another compiler gives other numbers
        assert not set(sass.table(found).splitlines()) - set(page.splitlines()), "write it again"


def nvcc_release() -> str | None:
    """As in 13.0, of the compiler here."""
    if (nvcc := sass.nvcc()) is None:
        return None
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    return said.split("release ")[1].split(",")[0]
