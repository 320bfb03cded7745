"""The stand-ins for AVX-512's intrinsics are complete, and compute what Intel's description says."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[3]
HEADER = ROOT / "tools" / "verify" / "wide" / "avx512.h"
INTRINSIC = re.compile(r"\b_mm512_\w+|\b_mm256_mask\w*_(?:load|store)u_epi16\b")
UNIT = """
extern "C" void round_pairs(const float* high, const float* low, uint16_t* to) {
  const __m512i both = (__m512i)_mm512_cvtne2ps_pbh(*(const __m512_u*)high, *(const __m512_u*)low);
  _mm512_storeu_si512(to, both);
}
extern "C" void unpack_and_shuffle(const float* a, const float* b, float* to) {
  const __m512 x = *(const __m512_u*)a, y = *(const __m512_u*)b;
  const __m512 found[] = {_mm512_unpacklo_ps(x, y), _mm512_unpackhi_ps(x, y), _mm512_shuffle_f32x4(x, y, 0x88),
                          _mm512_shuffle_f32x4(x, y, 0xdd),
                          _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(x), _mm512_castps_pd(y)))};
  for (int i = 0; i < 5; ++i) _mm512_mask_storeu_ps(to + 16 * i, 0x7fff, found[i]);
}
"""


def test_every_intrinsic_of_the_kernels_has_a_stand_in() -> None:
    used = {name for path in (ROOT / "csrc").rglob("*.h") for name in INTRINSIC.findall(path.read_text())}
    used |= {name for path in (ROOT / "csrc").rglob("*.cpp") for name in INTRINSIC.findall(path.read_text())}
    written = set(re.findall(r"#define (\w+) wide::", HEADER.read_text()))
    assert used
    assert used == written


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
def test_stand_ins_compute_what_the_instructions_do(tmp_path: Path) -> None:
    (tmp_path / "unit.cpp").write_text(UNIT)
    flags = ["-std=c++17", "-O1", "-mavx2", "-mfma", "-fPIC", "-shared", "-Wno-psabi", "-include", str(HEADER)]
    subprocess.run(["g++", *flags, "unit.cpp", "-o", "unit.so"], cwd=tmp_path, check=True)
    library = ctypes.CDLL(str(tmp_path / "unit.so"))
    a, b = np.arange(16, dtype=np.float32), np.arange(16, 32, dtype=np.float32)
    found = np.full((5, 16), -1, np.float32)
    library.unpack_and_shuffle(*(x.ctypes.data_as(ctypes.c_void_p) for x in (a, b, found)))
    parts = np.arange(0, 16, 4)
    by_turns = np.stack([a, b], 1)  # a0 b0, a1 b1, ...
    expected = np.stack([
        np.concatenate([by_turns[p : p + 2].ravel() for p in parts]),
        np.concatenate([by_turns[p + 2 : p + 4].ravel() for p in parts]),
        np.concatenate([x[p : p + 4] for x in (a, b) for p in (0, 8)]),
        np.concatenate([x[p : p + 4] for x in (a, b) for p in (4, 12)]),
        np.concatenate([np.concatenate([a[p + 2 : p + 4], b[p + 2 : p + 4]]) for p in parts]),
    ])  # fmt: skip
    assert np.array_equal(found[:, :15], expected[:, :15])
    assert (found[:, 15] == -1).all()  # left out by the mask

    high = np.array([1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8, np.nan, np.inf, 1e-40, -1e-40, -2.5] * 2, np.float32)
    to = np.zeros(32, np.uint16)
    library.round_pairs(*(x.ctypes.data_as(ctypes.c_void_p) for x in (high, a, to)))
    values = (to.astype(np.uint32) << 16).view(np.float32)
    assert np.array_equal(values[:16], a)
    tied = np.array([1.0, 1.0, 1.0 + 2**-6, np.nan, np.inf, 0.0, -0.0, -2.5] * 2, np.float32)  # ties go to even
    assert np.array_equal(values[16:], tied, equal_nan=True)
