"""The examples run and do what their docstrings say."""

from __future__ import annotations

import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.strangers.networks import torchvision

EXAMPLES = Path(__file__).parents[2] / "examples"


def main_of(name: str) -> Callable[..., Any]:
    return runpy.run_path(str(EXAMPLES / name))["main"]


def test_a_training_loop_learns() -> None:
    losses = main_of("train_any_net.py")(steps=12)
    assert losses[-1] < losses[0] / 2


def test_a_unet_keeps_less() -> None:
    plain, accelerated = main_of("unet_3d.py")()
    assert accelerated <= 0.8 * plain


def test_a_torchvision_network_goes_both_ways() -> None:
    try:
        torchvision()
    except ImportError as error:
        pytest.skip(str(error))
    assert main_of("torchvision_resnet.py")(size=32, steps=2) < 1e-4


def test_a_graphed_step_learns_where_there_is_no_graph() -> None:
    losses = main_of("graphed_step.py")(steps=12)
    assert losses[-1] < losses[0]


def test_a_video_is_filled() -> None:
    filled, gray = main_of("fill_video.py")()
    assert filled < gray / 2


def test_every_example_is_run_here() -> None:
    text = Path(__file__).read_text()
    missing = [path.name for path in EXAMPLES.glob("*.py") if path.name not in text]
    assert not missing, f"no test runs {', '.join(missing)}"
