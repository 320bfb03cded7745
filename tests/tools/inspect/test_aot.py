"""The Triton kernels compile without a GPU as on their page: no spills, tensor cores, shared memory."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

triton = pytest.importorskip("triton")

from tools.inspect import aot, static_model  # noqa: E402
from tools.inspect.page import table_of  # noqa: E402
from tools.inspect.paper_layers import paper_layers  # noqa: E402

ROOT = Path(__file__).parents[3]
FIELDS = (
    "layers", "kernel", "target", "block", "warps", "registers", "spilled", "shared", "matrix", "operand", "seconds",
)  # fmt: skip
WGRAD = ("conv_wgrad_kernel", "box_wgrad_kernel")  # one or the other
HEAVY = ("conv_fwd_kernel", "conv_dgrad_kernel", *WGRAD)


def rows_of(text: str) -> list[dict[str, str]]:
    """The rows of a table of compiled kernels."""
    lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(FIELDS, row, strict=True)) for row in cells]


def documented() -> str:
    return table_of(aot.PAGE, aot.BEGIN, aot.END)


@pytest.mark.parametrize("target", aot.TARGETS)
def test_every_pass_of_every_layer_is_in_the_table(target):
    rows = [row for row in rows_of(documented()) if row["target"] == target]
    for kernels in (HEAVY[:1], HEAVY[1:2], WGRAD):
        named = [name for row in rows if row["kernel"] in kernels for name in row["layers"].split(", ")]
        # the video needs no gradient
        wanted = {p.name for p in paper_layers() if kernels != HEAVY[1:2] or p.channels != 4}
        assert sorted(named) == sorted(wanted), kernels
    boxes = {name for row in rows if row["kernel"] == "box_wgrad_kernel" for name in row["layers"].split(", ")}
    wide = {p.name for p in paper_layers() if min(p.channels, p.out_channels) >= 64}
    assert boxes == (wide if target in aot.COPY_ENGINES else set())
    assert any(row["layers"] == "elementwise" for row in rows)


# Bytes that a thin forward spills by ptxas' own choice, at 128 registers, since its K-steps do without divisions; and
# what one wgrad of four taps spills where the compiler gives its eight warps 64 registers.
SPILLED = {("3dcn.2", "conv_fwd_kernel", "sm_80"): 16, ("3dcn.12", "conv_fwd_kernel", "sm_80"): 8}
SPILLED |= {("3dcn.4", "box_wgrad_kernel", "sm_100"): 24}


@pytest.mark.parametrize("target", aot.TARGETS)
def test_nothing_spills_and_products_are_on_tensor_cores(target):
    for row in rows_of(documented()):
        if row["target"] == target:
            assert int(row["spilled"]) <= SPILLED.get((row["layers"], row["kernel"], target), 0), row
            assert int(row["shared"]) <= aot.SHARED_LIMIT[target], row
            assert row["kernel"] not in HEAVY or any(op in row["matrix"] for op in aot.MATRIX_OPS[target]), row
            # wgmma takes 64 rows; the wgrad of thin layers has fewer
            narrow = row["kernel"] == "conv_wgrad_kernel" and int(row["block"].split("x")[3]) < 64
            assert target != "sm_90" or row["kernel"] not in HEAVY or narrow or "HGMMA" in row["matrix"], row


def test_the_table_is_of_these_sources():
    """Otherwise run `python -m tools.inspect.aot --write`."""
    assert f"sources {aot.source_digest()}." in documented()


def test_a_layer_compiles_as_the_table_says():
    """In a separate process with the environment of the table's run; cached in build/."""
    command = [sys.executable, "-m", "tools.inspect.aot", "--targets", "sm_90", "--layers", "3dcn.1"]
    environment = {**os.environ, "TRITON_CACHE_DIR": str(ROOT / "build" / "triton")}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    rows = rows_of(done.stdout)
    assert {row["kernel"] for row in rows} >= {
        "conv_fwd_kernel",
        "finish_norm_kernel",
        "conv_wgrad_kernel",
        "conv_finish_kernel",
    }
    if f"Triton {triton.__version__}," in documented():
        known = [{**row, "layers": "", "seconds": ""} for row in rows_of(documented())]
        for row in rows:
            assert {**row, "layers": "", "seconds": ""} in known


def test_layers_that_run_one_kernel_share_a_row(monkeypatch):
    """Its time is that of the real compilation, not of cached ones."""
    found = {"a": [compiled("x", 2.0), compiled("y", 1.0)], "b": [compiled("x", 0.0)]}
    monkeypatch.setattr(aot, "ProcessPoolExecutor", lambda *_: contextlib.nullcontext(SimpleNamespace(map=map)))
    monkeypatch.setattr(aot, "compile_one", lambda name, target, cache: found[name])
    rows = aot.compile_all(["b", "a"], ["sm_90"])
    assert [(row.layers, row.compiled.seconds) for row in rows] == [(["b", "a"], 2.0), (["a"], 1.0)]


def test_an_interrupted_run_goes_on_where_it_was(monkeypatch, tmp_path):
    """Finished jobs are read from the file, except for other sources. No temporary file is left."""
    kept, ran, broken = tmp_path / "deep" / "kept.json", [], ["b"]

    def compile_one(name, target, cache):
        if name in broken:
            raise KeyboardInterrupt
        ran.append(name)
        return [compiled(name, 1.0)]

    monkeypatch.setattr(aot, "ProcessPoolExecutor", lambda *_: contextlib.nullcontext(SimpleNamespace(map=map)))
    monkeypatch.setattr(aot, "compile_one", compile_one)
    with pytest.raises(KeyboardInterrupt):
        aot.compile_all(["a", "b"], ["sm_90"], kept=kept)
    broken.clear()
    rows = aot.compile_all(["a", "b"], ["sm_90"], kept=kept)
    assert ran == ["a", "b"]
    assert rows == [(["a"], compiled("a", 1.0)), (["b"], compiled("b", 1.0))]
    assert list(kept.parent.iterdir()) == [kept]
    monkeypatch.setattr(aot, "made_from", lambda: "other sources")
    aot.compile_all(["a"], ["sm_90"], kept=kept)
    assert ran == ["a", "b", "a"]


def test_the_static_model_is_that_of_the_code():
    """The page's table is the script's output, and its sums are those of the paper's step."""
    table = static_model.table()
    assert table in static_model.PAGE.read_text()
    total = table.splitlines()[-1].split("|")
    assert float(total[3]) == pytest.approx(2666, abs=1)  # GFLOP: 2.67 TFLOP
    assert float(total[4]) == pytest.approx(2.34 / 2.67, abs=0.02)  # live share: 2.34 TFLOP


def compiled(key: str = "k", seconds: float = 0.0) -> aot.Compiled:
    return aot.Compiled("kernel", "sm_90", 8, 3, "1x8x16", 255, 0, 1000, {}, True, seconds, key)


def test_what_spills_or_overflows_is_said():
    fine = compiled()
    assert fine.complaint() is None
    assert "spills 64 bytes" in str(fine._replace(spilled=64).complaint())
    assert "300000 bytes of shared memory" in str(fine._replace(shared=300000).complaint())
