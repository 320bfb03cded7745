"""A pytest plugin that runs the first case of each test function, backend, contender and pass."""

from __future__ import annotations

import pytest

LEFT_OUT = ("triton", "library")  # backends of which a whole network takes long here
SLOW = ("test_graph.py", "test_a_training_step_in_a_cuda_graph")  # files and tests that take minutes here


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    kept: dict[tuple[object, ...], pytest.Item] = {}
    for item in items:
        given = item.callspec.params if hasattr(item, "callspec") else {}
        if given.get("backend") in LEFT_OUT or {item.path.name, item.originalname} & set(SLOW):  # type: ignore[attr-defined]
            continue
        axes = [given.get(axis) for axis in ("contender", "which", "backend")]
        if item.path.name == "test_step.py":
            axes.append(given["name"])
        kept.setdefault((item.path, item.originalname, *axes), item)  # type: ignore[attr-defined]
    chosen = list(kept.values())
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = chosen
