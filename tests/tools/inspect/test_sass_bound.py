"""The bound that is read from machine code: products known to be fast, planted slowness, loops of a few lines."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools.inspect import rates, sass_bound, sass_text
from tools.inspect.sass_bound import Paths, Prefetch
from tools.nvcc import find_nvcc

PROBES = Path(sass_bound.__file__).parent / "probes"
NEEDS_TOOLS = pytest.mark.skipif(
    sass_text.tool("nvdisasm") is None or sass_text.tool("cuobjdump") is None, reason="there is no nvdisasm."
)


def bound_of(cubin: bytes, arch: str, copied: sass_bound.Copied = sass_bound.NOTHING) -> sass_bound.Cost:
    tool = sass_text.tool("nvdisasm")
    assert tool is not None
    _, graph = sass_bound.find_kernel(sass_text.disassemble(tool, cubin), "product")
    return sass_bound.loop_cost(sass_bound.main_loop(graph), 8, rates.CHIPS[arch], copied=copied)


@NEEDS_TOOLS
@pytest.mark.parametrize("arch", rates.CHIPS)
def test_tritons_product_of_matrices_is_fast(arch: str) -> None:
    pytest.importorskip("triton")
    from tools.inspect.probes import triton_product

    found = bound_of(triton_product.compiled(triton_product.product_by_pointers, arch), arch)
    assert found.bound >= 0.8
    if arch == "sm_90":
        cubin = triton_product.compiled(triton_product.product_by_descriptors, arch)
        assert bound_of(cubin, arch, sass_bound.tiles(*triton_product.TILES[arch])).bound >= 0.8


@NEEDS_TOOLS
def test_a_loop_of_wgmma_and_copies_is_fast_and_one_that_waits_on_registers_is_not(tmp_path: Path) -> None:
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("there is no nvcc.")
    text, slow = (PROBES / "wgmma_product.cu").read_text(), []
    planted = text.replace(
        '    asm volatile("wgmma.commit_group',
        "#pragma unroll\n    for (int i = 0; i < 128; ++i) d[i] = fmaxf(d[i] * 0.999f, -d[i]);\n"
        '    asm volatile("wgmma.commit_group',
    )
    assert planted != text
    for source in (text, planted):
        (tmp_path / "probe.cu").write_text(source)
        command = [nvcc, "-std=c++17", "-O3", "-gencode=arch=compute_90a,code=sm_90a", "-cubin", "probe.cu"]
        subprocess.run([*command, "-o", "probe.cubin"], cwd=tmp_path, check=True, capture_output=True)
        slow.append(bound_of((tmp_path / "probe.cubin").read_bytes(), "sm_90", sass_bound.tiles(128, 256, 64)))
    assert slow[0].bound >= 0.8
    assert slow[1].busy["issue"] > 2 * slow[0].busy["issue"]


LOOP = """
.text.kernel:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   ISETP.GE.AND P0, PT, R2, R3, PT ;
        /*0020*/               @P0 BRA `(.L_x_1) ;
        /*0030*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0040*/                   STS.128 [R9], R4 ;
.L_x_1:
        /*0050*/                   HMMA.16816.F32.BF16 R20, R24, R28, R20 ;
        /*0060*/                   HMMA.16816.F32.BF16 R20, R24, R28, R20 ;
        /*0070*/                   IADD3 R2, R2, 0x1, RZ ;
        /*0080*/               @P1 BRA `(.L_x_0) ;
        /*0090*/                   EXIT ;
"""


def test_the_way_through_a_loop_follows_what_an_iteration_loads() -> None:
    ((name, graph),) = sass_text.kernels(LOOP)
    main = sass_bound.main_loop(graph)
    assert name == "kernel"
    assert len(main.inner.blocks) == 3
    count = {
        loads: sum(len(graph[at].instructions) for at in sass_bound.walk(main, main.inner, None, loads))
        for loads in (0, 1)
    }
    assert count == {0: 6, 1: 8}
    chip = rates.CHIPS["sm_80"]
    half = sass_bound.loop_cost(main, 4, chip, Paths(prefetches=(Prefetch(1, 0.5),)))
    assert half.tensor == 16  # cycles: two products of 2048 multiply-adds at 256 a cycle and tensor core
    assert half.busy["issue"] == 7
    assert half.busy["shared"] == 0.5 * 4 * 512 / 128
    assert half.busy["L2"] == pytest.approx(0.5 * 4 * 512 / chip.l2_bytes)
    assert half.limit == "L2"
    assert half.bound == pytest.approx(16 / half.busy["L2"])


def test_an_addend_is_added_only_where_there_is_one() -> None:
    text = LOOP.replace("/*0040*/                   STS", "/*0038*/ @P2 BRA `(.L_x_2) ;\n /*003c*/ FADD R4, R4, R5 ;\n"
                        ".L_x_2:\n        /*0040*/                   STS")  # fmt: skip
    ((_, graph),) = sass_text.kernels(text)
    main = sass_bound.main_loop(graph)
    for adds in (True, False):
        path = sass_bound.walk(main, main.inner, None, 1, adds=adds)
        assert adds == any(i.base == "FADD" for at in path for i in graph[at].instructions)


def test_parameters_from_shared_memory_are_read_only_where_an_iteration_reads_them() -> None:
    text = LOOP.replace("/*0040*/                   STS", "/*0038*/ @P2 BRA `(.L_x_2) ;\n /*003c*/ LDS.128 R4, [R8] ;\n"
                        ".L_x_2:\n        /*0040*/                   STS")  # fmt: skip
    ((_, graph),) = sass_text.kernels(text)
    main, chip = sass_bound.main_loop(graph), rates.CHIPS["sm_80"]
    without, with_them = (
        sass_bound.loop_cost(main, 4, chip, Paths(prefetches=(Prefetch(1, 0.5, vectors=vectors),)))
        for vectors in (0, 1)
    )
    assert with_them.busy["issue"] == without.busy["issue"] + 0.5
    assert with_them.busy["shared"] == without.busy["shared"] + 0.5 * 4 * 512 / 128


OUTER = """
.text.kernel:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/               @P0 BRA `(.L_x_1) ;
        /*0020*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
.L_x_1:
        /*0030*/                   HMMA.16816.F32.BF16 R20, R24, R28, R20 ;
        /*0040*/               @P1 BRA `(.L_x_1) ;
.L_x_2:
        /*0050*/               @P2 BRA `(.L_x_4) ;
.L_x_3:
        /*0060*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0070*/                   STS.128 [R9], R4 ;
        /*0080*/               @P3 BRA `(.L_x_3) ;
.L_x_4:
        /*0090*/               @P4 BRA `(.L_x_0) ;
        /*00a0*/                   EXIT ;
"""


def test_parameters_from_global_memory_count_in_their_share_of_the_outer_loop() -> None:
    """Four lanes' vectors of a warp differ, and what the loop behind the products loads is none of them."""
    ((_, graph),) = sass_text.kernels(OUTER)
    main, chip = sass_bound.main_loop(graph), rates.CHIPS["sm_80"]
    plain, more = (
        sass_bound.loop_cost(main, 4, chip, Paths(None, (), 2, parameters)) for parameters in ((0, 0.0), (1, 0.25))
    )
    assert more.busy["issue"] == plain.busy["issue"] + 0.25
    assert plain.busy["L2"] == 0
    assert more.busy["L2"] == pytest.approx(0.25 * 4 * 512 / 8 / chip.l2_bytes)
    assert more.busy["shared"] == 0


def test_zeros_that_threads_write_take_shared_memory_and_no_l2() -> None:
    ((_, graph),) = sass_text.kernels(LOOP)
    main, chip = sass_bound.main_loop(graph), rates.CHIPS["sm_80"]
    brought, zeroed = (
        sass_bound.loop_cost(main, 4, chip, copied=sass_bound.Copied(bytes_, 4 * 4096, written))
        for bytes_, written in ((8192, 0), (0, 8192))
    )
    assert brought.busy["shared"] == zeroed.busy["shared"]
    assert brought.busy["L2"] > zeroed.busy["L2"]


def test_a_kernel_without_products_has_no_bound() -> None:
    ((_, graph),) = sass_text.kernels(LOOP.replace("HMMA.16816.F32.BF16", "FFMA"))
    with pytest.raises(ValueError, match="no loop of this kernel holds a product"):
        sass_bound.main_loop(graph)


@pytest.mark.parametrize(
    ("name", "bytes_"),
    [("LDSM.16.MT88.4", 512), ("STS.128", 512), ("LDS.U16", 64), ("LDS", 128), ("LDGSTS.E.BYPASS.128", 512)],
)
def test_bytes_of_shared_memory(name: str, bytes_: int) -> None:
    assert rates.shared_bytes(name) == bytes_


def test_products_of_instructions() -> None:
    assert rates.products("HGMMA.64x128x16.F32.BF16") == (16 * 128 * 16, 16 * 128 * 16)
    assert rates.products("HMMA.1688.F32.TF32") == (16 * 8 * 8, 2 * 16 * 8 * 8)
    assert rates.wgmma_bytes("HGMMA.64x256x16.F32.BF16", False) == (256 * 16 / 4 + 16 * 16) * 2


def test_occupancy() -> None:
    chip = rates.CHIPS["sm_90"]
    assert sass_bound.occupancy(168, 100 << 10, 4, chip) == 2
    assert sass_bound.occupancy(255, 10 << 10, 8, chip) == 1
