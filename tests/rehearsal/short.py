"""A pytest plugin: trainings of a few steps of two narrow frames, where a GPU's tests take some more."""

from __future__ import annotations

import dataclasses

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from fastinpaint.models import ModelConfig
    from fastinpaint.training import graph

    graph.WARM_UP = 1
    for module in {item.module for item in items if item.path.name == "test_graph.py"}:  # type: ignore[attr-defined]
        module.CONFIG = dataclasses.replace(
            module.CONFIG, model=ModelConfig(width=1 / 32), pretrain_steps=2, steps=3, validate_every=3
        )
