"""What refuses bad values: ranges of numbers, plain YAML, bounded files, estimates of memory, locks, variables."""

from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastinpaint import environment, memory
from fastinpaint.data.bounds import MOST_PIXELS, check_frame_size, image_size
from fastinpaint.errors import MOST_CHARACTERS, UserError, one_line, shown
from fastinpaint.files import locked, parse_json, read_text
from fastinpaint.models import ModelConfig, TwoDCN, VideoCompletionNet
from fastinpaint.models.sizes import maps, require_step, weights
from fastinpaint.models.table import COMBCN, THREEDCN
from fastinpaint.ops.dispatch.native_cuda import HOPPER_VALUES
from fastinpaint.ops.dispatch.registry import BACKENDS
from fastinpaint.ranges import real, whole
from fastinpaint.strict_yaml import read_yaml


@pytest.mark.parametrize("text", ["1", "7", "+3", "1e1", "10.0"])
def test_whole_numbers_are_read(text: str) -> None:
    assert whole(1, 10)(text) == int(float(text))
    assert type(whole(1, 10)(text)) is int


@pytest.mark.parametrize(
    "text",
    ["", " 1", "1\n", "0", "11", "1.5", "nan", "inf", "1_0", "\uff11", "1\udcff", "9" * 5000, "1e400", "ten"],
)
def test_what_is_no_whole_number_in_range_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="must be a whole number from 1 to 10, got") as caught:
        whole(1, 10)(text)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("value", [True, None, [1], 1.5, math.nan, math.inf, 10**400, -1])
def test_python_values_are_checked_alike(value: object) -> None:
    with pytest.raises(UserError, match=r"frames must be a whole number from 1 to 10, got .*\.$"):
        whole(1, 10).checked("frames", value)


def test_a_range_may_leave_out_its_end() -> None:
    assert real(0, 64, above=True)("1e-3") == 1e-3
    with pytest.raises(argparse.ArgumentTypeError, match="must be a number above 0 and up to 64, got '0'"):
        real(0, 64, above=True)("0")


def test_a_sentence_is_one_line_of_printable_text() -> None:
    assert one_line("a\nb\x1b[31m\udcff") == "a\\nb\\x1b[31m\\udcff"
    assert len(one_line("x" * 10**6)) < MOST_CHARACTERS + 10
    assert shown(10**5000) == "a int too large to show"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: &x 1\nb: *x\n", "anchors"),
        ("a: !!python/name:os.system\n", "tags"),
        ("a: 1\na: 2\n", "given twice"),
        ("m: {a: 1, a: 2}\n", "given twice"),
        ("a: " + "[" * 100_000, "levels deep"),
        ("? [a]\n: 1\n", "a key must be a word"),
    ],
    ids=["alias", "tag", "twice", "twice inside", "deep", "key"],
)
def test_yaml_that_options_do_not_need_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=words):
        read_yaml(tmp_path / "a.yaml")


def test_yaml_values_stay_text(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 2026-11-29\nb: 010\nc: no\nd: {e: 1e-3}\n")
    assert read_yaml(tmp_path / "a.yaml") == {"a": "2026-11-29", "b": "010", "c": "no", "d": {"e": "1e-3"}}


def test_a_device_is_not_read_as_text(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (Path("/dev/zero"), tmp_path / "pipe"):
        with pytest.raises(UserError, match="must be a regular file, and is not one"):
            read_text(path)
    (tmp_path / "long").write_text("x" * 11)
    with pytest.raises(UserError, match="more than 10 bytes"):
        read_text(tmp_path / "long", 10)


@pytest.mark.parametrize("text", ["[" * 100_000, "1" * 5000, "{", '{"a":' * 50_000])
def test_json_that_is_too_much_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_one_process_holds_a_folder(tmp_path: Path) -> None:
    code = "import sys, pathlib, fastinpaint.files as f\nwith f.locked(pathlib.Path(sys.argv[1]), 'x'): pass"
    with locked(tmp_path, "the run"):
        with pytest.raises(UserError, match="the run is in use by another process"), locked(tmp_path, "the run"):
            pass
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
        assert "is in use by another process" in other.stderr
    with locked(tmp_path, "the run"):
        pass
    assert not list(tmp_path.iterdir())


def test_the_estimates_count_the_networks_own_weights_and_maps() -> None:
    config = ModelConfig(width=0.5)
    for table, model in ((COMBCN, TwoDCN(config)), (THREEDCN, VideoCompletionNet(config).threedcn)):
        held = sum(parameter.numel() for parameter in model.parameters())
        assert 0.4 * held < weights(config, table) <= held  # without the skips' channels
    assert maps(config, COMBCN, 64 * 64)[:2] == [32 * 64 * 64, 64 * 32 * 32]


def test_a_step_that_cannot_fit_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(memory, "available_bytes", lambda device: 10 * 2**30)
    require_step("train", ModelConfig(), (1, 8, 64), torch.device("cpu"))
    with pytest.raises(UserError, match=r"at least [\d,.]+ GiB of memory; this machine has 10\.0 GiB free\."):
        require_step("train", ModelConfig(), (1000, 32, 128), torch.device("cpu"))


def test_a_control_groups_file_cache_counts_as_free(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text("anon 300\ninactive_file 400\nactive_file 100\n")
    assert memory._cgroup(tmp_path, "memory.max", "memory.current") == 600
    (tmp_path / "memory.max").write_text("max\n")
    assert memory._cgroup(tmp_path, "memory.max", "memory.current") is None


def test_there_is_some_memory() -> None:
    there = memory.available_bytes()
    assert there is None or there > 2**20


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp", ".ppm"])
def test_headers_state_the_size(suffix: str) -> None:
    import cv2

    data = cv2.imencode(suffix, np.zeros((30, 50, 3), np.uint8))[1]
    assert image_size(data.data) == (50, 30)
    assert image_size(data.data[:5]) is None


def test_frames_have_a_largest_size() -> None:
    check_frame_size("a", 8192, MOST_PIXELS // 8192)
    for width, height in ((8193, 8192), (0, 5), (2**31, 2**31)):
        with pytest.raises(UserError, match=f"frames of {width}x{height} pixels"):
            check_frame_size("a", width, height)


def test_variables_take_what_their_readers_know(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(environment.VARIABLES["FASTINPAINT_BACKEND"]) == {"auto", *BACKENDS}
    assert set(environment.VARIABLES["FASTINPAINT_HOPPER"]) == set(HOPPER_VALUES)
    for name in environment.VARIABLES:
        monkeypatch.setenv(name, "toaster")
        with pytest.raises(UserError, match=rf"{name} must be one of .*, got 'toaster'\."):
            environment.check()
        monkeypatch.setenv(name, environment.VARIABLES[name][-1])
        environment.check()
