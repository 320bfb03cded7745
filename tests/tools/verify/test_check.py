"""`make check` finds the tests of what changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools.verify import check


@pytest.mark.parametrize(
    ("path", "tests"),
    [
        ("fastinpaint/ops/conv_block/cpu/thin.py", "tests/ops/conv_block/cpu/test_thin.py"),
        ("csrc/conv_block/cpu/thin.cpp", "tests/ops/conv_block/cpu/test_thin.py"),
        ("csrc/conv_block/cpu/tiles.h", "tests/ops/conv_block/cpu"),
        ("csrc/conv_block/cuda/kernels/gather.cuh", "tests/ops/conv_block/cuda"),
        ("fastinpaint/ops/conv_block/triton/gather.py", "tests/ops/conv_block/triton"),
        ("fastinpaint/ops/conv_block/library.py", "tests/ops/conv_block/test_library.py"),
        ("fastinpaint/ops/dispatch/registry.py", "tests/ops/dispatch/test_registry.py"),
        ("fastinpaint/accelerate.py", "tests/accelerate"),
        ("fastinpaint/training/losses.py", "tests/training/test_losses.py"),
        ("tools/inspect/aot.py", "tests/tools/inspect/test_aot.py"),
        ("tools/verify/check.py", "tests/tools/verify/test_check.py"),
        ("setup.py", None),
        ("tests/test_setup.py", "tests/test_setup.py"),
        ("tests/ops/cuda/small_cases.py", "tests/ops/cuda"),
        ("tests/conftest.py", None),
        ("tests/ops/test_that_was_deleted.py", None),
        ("docs/cpu.md", "tests/docs"),
        ("fastinpaint/acceleration/search.py", "tests/accelerate/test_search.py"),
        ("fastinpaint/acceleration/swap.py", "tests/accelerate"),
        ("fastinpaint/files.py", None),
    ],
)
def test_tests_mirror_sources(path: str, tests: str | None) -> None:
    assert check.mirror_of(path) == tests


def test_a_file_inside_a_selected_folder_is_not_selected_twice() -> None:
    found = check.selected(["tests/ops/cuda/small_cases.py", "tests/ops/cuda/test_gpu.py", "setup.py"])
    assert found == [check.ALWAYS, "tests/ops/cuda"]


def test_a_module_without_a_mirror_is_tested_by_those_who_import_it() -> None:
    assert "tests/data/test_crops.py" in check.importers_of("fastinpaint/errors.py")
    assert "tests/ops/conv_block/cpu/test_thin.py" in check.importers_of("fastinpaint/ops/types.py")
    assert "tests/data/test_crops.py" not in check.importers_of("fastinpaint/ops/types.py")
    assert "tests/data/test_crops.py" in check.selected(["fastinpaint/errors.py"])


def test_triton_tests_are_interpreted() -> None:
    assert check.is_interpreted(Path("tests/ops/conv_block/triton/test_taps.py"))
    assert check.is_interpreted(Path("tests/testing/interpreter/test_guard.py"))
    assert not check.is_interpreted(Path("tests/ops/conv_block/test_library.py"))


def test_time_that_is_over_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert check._pytest(["tests/test_setup.py"], interpreted=False, until=0.0) is None
    assert capsys.readouterr().out == "no time was left for 1 files of tests: tests/test_setup.py\n"
