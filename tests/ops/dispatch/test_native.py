"""The compiled libraries are those of the checkout's sources, or say that they are not."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from fastinpaint.ops.dispatch import native

CSRC = native.HERE.parent / "csrc"
pytestmark = pytest.mark.skipif(native.why_not("cpu") is not None, reason="the CPU kernels are not built")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A copy of the sources with the built library beside them; returns the package's folder."""
    shutil.copytree(CSRC, tmp_path / "csrc")
    package = tmp_path / "fastinpaint"
    package.mkdir()
    (package / "libfastinpaint_cpu.so").symlink_to(native.HERE / "libfastinpaint_cpu.so")
    return package


def test_a_library_of_the_same_sources_is_used(checkout: Path) -> None:
    changed = checkout.parent / "csrc" / "conv_block" / "cpu" / "winograd.h"
    changed.write_text("// A comment changes nothing.\n" + changed.read_text())
    assert native._why_not.__wrapped__("cpu", checkout) is None


@pytest.mark.parametrize("name", ["winograd.h", "winograd.cpp", "new.h"])
def test_a_library_of_other_sources_says_so(name: str, checkout: Path) -> None:
    changed = checkout.parent / "csrc" / "conv_block" / "cpu" / name
    with changed.open("a") as file:
        file.write("\nstatic const int changed = 1;\n")
    assert native._why_not.__wrapped__("cpu", checkout) == (
        "libfastinpaint_cpu.so was built from other sources than csrc holds; run `pip install -e .` again."
    )


def test_cuda_sources_are_not_the_cpu_librarys(checkout: Path) -> None:
    with (checkout.parent / "csrc" / "conv_block" / "cuda" / "wgrad.cu").open("a") as file:
        file.write("\nstatic const int changed = 1;\n")
    assert native._why_not.__wrapped__("cpu", checkout) is None


def test_the_emulations_runtime_is_no_librarys(checkout: Path) -> None:
    with (checkout.parent / "csrc" / "cuda_on_cpu" / "wgmma.h").open("a") as file:
        file.write("\nstatic const int changed = 1;\n")
    assert native._why_not.__wrapped__("cpu", checkout) is None


def test_an_installed_library_has_no_sources_beside_it(checkout: Path) -> None:
    shutil.rmtree(checkout.parent / "csrc")
    assert native._why_not.__wrapped__("cpu", checkout) is None
