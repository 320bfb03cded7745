"""A pytest plugin that reduces GPU tests to two narrow frames and a few training steps."""

from __future__ import annotations

import dataclasses

import pytest

WIDTH, FRAMES, SIZE = 1 / 32, 2, 16
FEW = {"strategy": "paper", "pretrain_steps": 2, "steps": 3, "validate_every": 3}
FEWEST = {"strategy": "2dcn", "pretrain_steps": 0, "steps": 2, "validate_every": 2}  # interpreted, a step is a minute


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from fastinpaint import graph
    from tests.training import conftest

    graph.WARM_UP = 1
    conftest.FRAMES, conftest.SIZE = FRAMES, SIZE
    for module in {item.module for item in items if item.path.name == "test_system.py"}:  # type: ignore[attr-defined]
        module.WIDTH, module.FRAMES, module.SIZE = WIDTH, FRAMES, SIZE


def pytest_runtest_setup(item: pytest.Item) -> None:
    from fastinpaint.models import ModelConfig

    if item.path.name == "test_graph.py":
        module, given = item.module, getattr(item, "callspec", None)  # type: ignore[attr-defined]
        steps = FEWEST if given and given.params.get("backend") == "triton" else FEW
        module.CONFIG = dataclasses.replace(module.CONFIG, model=ModelConfig(width=WIDTH), **steps)
