"""A pytest plugin that times two rounds of each benchmark."""

from __future__ import annotations

import sys


def pytest_collection_modifyitems() -> None:
    sys.modules["benchmarks.conftest"].LEAST = 2  # type: ignore[attr-defined]
