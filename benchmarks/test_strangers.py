"""Public networks before and after one line: `benchmarks.strangers.measure` as ``pytest benchmarks -k strangers``."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.strangers.measure import Mode, measure
from benchmarks.strangers.networks import CASES
from fastinpaint.bench import rows

SLOWEST = 1.1  # relative time beside the better stock layout that a single noisy run may read
TURNS = 9


@pytest.mark.parametrize("name", CASES)
def test_strangers(name: str, rows_file: Path, request: pytest.FixtureRequest) -> None:
    """Append the rows of a training step, stock in both layouts and accelerated. It must not be slower or larger."""
    if request.config.getoption("--device") != "cpu":
        pytest.skip("the timing set is measured on the CPU")
    try:
        *stock, ours = measure(name, "speed", TURNS, CASES[name].shape, Mode())
    except ImportError as error:
        pytest.skip(f"a package is not installed: {error}")
    rows.append(rows_file, [*stock, ours])
    assert ours["kept_bytes"] <= 1.01 * min(row["kept_bytes"] for row in stock)
    assert ours["p50"] <= SLOWEST * min(row["p50"] for row in stock)
