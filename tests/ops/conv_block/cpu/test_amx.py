"""Products by AMX's tiles, which memory stands in for: alone against float64, and in whole layers of bfloat16 maps."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fastinpaint.ops.conv_block.cpu import select, winograd
from fastinpaint.ops.dispatch import native, native_cpu
from tests.ops.conv_block.cpu.cases import CONVOLUTIONS, Case, check_all
from tests.ops.conv_block.cpu.test_bf16 import LUCK, ODD, inputs_of

CSRC = Path(__file__).parents[4] / "csrc"
UNIT = """
#include "conv_block/cpu/simd_bf16_amx.cpp"

#include <atomic>
#include <vector>

namespace fi {
float* scratch(Scratch, int64_t floats) {
  static thread_local std::vector<float> buffer;
  buffer.resize(floats);
  return buffer.data();
}
}  // namespace fi
std::atomic<long> calls[2];
FI_EXPORT void multiply(const fi::AmxProduct* product) {
  ++calls[product->a_step != 1];
  fi::scalar::multiply_by_amx()(*product);
}
FI_EXPORT long calls_of(int transposed) { return calls[transposed]; }
"""
# Of every kind of form, with rests of rows, columns and terms.
LAYERS = (
    "three_sources",
    "deeper_than_a_product",
    "many_tiles",
    "alone",
    "up",
    "down",
    "video",
    "nine_tiles",
    "one_tile",
)
pytestmark = [
    pytest.mark.skipif(native.why_not("cpu") is not None, reason=str(native.why_not("cpu"))),
    pytest.mark.skipif(shutil.which("g++") is None, reason="the emulation of AMX needs g++"),
]


class Product(ctypes.Structure):
    """`fi::AmxProduct`."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in "abc"),
        *((name, ctypes.c_int64) for name in ("a_row", "a_step", "b_row", "c_row", "rows", "columns", "terms")),
        ("add", ctypes.c_bool),
    ]


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The products, compiled with tiles in memory."""
    folder = tmp_path_factory.mktemp("amx")
    (folder / "unit.cpp").write_text(UNIT)
    defined = ["-DFI_EMULATE_AMX", "-DFI_ISA=scalar", "-DFI_BYTES=16"]
    command = ["g++", "-std=c++17", "-O2", "-fPIC", "-shared", *defined, f"-I{CSRC}", "unit.cpp", "-o", "unit.so"]
    subprocess.run(command, cwd=folder, check=True)
    return ctypes.CDLL(str(folder / "unit.so"))


@pytest.fixture
def in_layers(emulated: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch) -> Iterator[ctypes.CDLL]:
    """The emulated products in place of those by vectors, in layers on own kernels."""
    monkeypatch.setenv(select.VARIABLE, "own")
    use = native_cpu.library().fi_cpu_use_amx
    use(ctypes.cast(emulated.multiply, ctypes.c_void_p))
    yield emulated
    use(None)


def to_bf16(x: np.ndarray) -> np.ndarray:
    """The upper halves of float32 values."""
    return (x.astype(np.float32).view(np.uint32) >> 16).astype(np.uint32)


def from_bf16(bits: np.ndarray) -> np.ndarray:
    return (bits << 16).astype(np.uint32).view(np.float32).astype(np.float64)


@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("add", [False, True], ids=["set", "add"])
@pytest.mark.parametrize(
    ("rows", "columns", "terms"),
    [(28, 32, 128), (32, 32, 16), (1, 16, 1), (17, 16, 24), (16, 48, 8), (33, 100, 50), (128, 128, 127), (5, 3, 16)],
)
def test_a_product_is_as_in_float64_and_leaves_all_else_alone(
    emulated: ctypes.CDLL, rows: int, columns: int, terms: int, add: bool, transposed: bool
) -> None:
    rng = np.random.default_rng(rows * columns + terms)
    a_low, a_high, b_low, b_high = (
        to_bf16(rng.standard_normal(s)) for s in [(rows, terms)] * 2 + [(terms, columns)] * 2
    )
    unset = 0x7FC07FC0  # two NaNs: what a tile reads too much of shows
    a = np.full((rows, terms + 3), unset, np.uint32)
    a[:, :terms] = a_low | a_high << 16
    b = np.full((terms, columns + 5), unset, np.uint32)
    b[:, :columns] = b_low | b_high << 16
    c = rng.standard_normal((rows, columns + 7)).astype(np.float32)
    before = c.copy()
    expected = from_bf16(a_low) @ from_bf16(b_low) + from_bf16(a_high) @ from_bf16(b_high)
    expected += before[:, :columns] if add else 0
    if transposed:
        a = np.full((terms, rows + 2), unset, np.uint32)
        a[:, :rows] = (a_low | a_high << 16).T
    a_row, a_step = (1, a.shape[1]) if transposed else (a.shape[1], 1)
    product = Product(a.ctypes.data, b.ctypes.data, c.ctypes.data, a_row, a_step, b.shape[1], c.shape[1])
    product.rows, product.columns, product.terms, product.add = rows, columns, terms, add
    emulated.multiply(ctypes.byref(product))
    np.testing.assert_allclose(c[:, :columns], expected, rtol=1e-5, atol=1e-5 * terms**0.5)
    assert np.array_equal(c[:, columns:], before[:, columns:])


@pytest.mark.parametrize("case", [c for c in (*CONVOLUTIONS, *ODD) if c.name in LAYERS], ids=lambda c: c.name)
def test_layers_forward_and_gradients(in_layers: ctypes.CDLL, case: Case) -> None:
    inputs = inputs_of(case)
    assert select.select_kernels(inputs.sources, inputs.weight, case.geometry) == (winograd,) * 3
    before = [in_layers.calls_of(transposed) for transposed in (0, 1)]
    check_all(inputs, LUCK)
    after = [in_layers.calls_of(transposed) for transposed in (0, 1)]
    assert after[0] > before[0]
    assert after[1] > before[1]


def test_a_processor_without_amx_takes_the_next_best_level() -> None:
    """And one that has it takes it where it is asked for, and only there."""
    library = native.HERE / "libfastinpaint_cpu.so"
    probe = f"import ctypes; print(ctypes.CDLL({str(library)!r}).fi_cpu_isa())"

    def level(**asked: str) -> str:
        kept = {name: value for name, value in os.environ.items() if name != "FASTINPAINT_CPU_ISA"}
        command = [sys.executable, "-c", probe]
        found = subprocess.run(command, env=kept | asked, capture_output=True, text=True, check=True).stdout
        return native_cpu.ISAS[int(found)]

    flags = Path("/proc/cpuinfo").read_text().split() if Path("/proc/cpuinfo").exists() else []
    found = level()
    assert found != "amx"
    assert level(FASTINPAINT_CPU_ISA="amx") == ("amx" if "amx_bf16" in flags else found)
