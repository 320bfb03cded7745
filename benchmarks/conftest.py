"""What every benchmark shares: where it runs, how it is timed, and the row it leaves.

    pytest benchmarks --benchmark-only                      on the CPU, in minutes
    pytest benchmarks --benchmark-only --device cuda        at the paper's size and beyond, in bfloat16

Each benchmark checks its result against plain PyTorch before it is timed. Rows are appended to
``benchmarks/results/<commit>-<device>.jsonl`` (another file by ``--rows``); `benchmarks.compare` compares two runs.

``peak_bytes`` and ``kept_bytes`` of an op or a layer are what torch allocates during one call, and what autograd keeps
of it. ``peak_bytes`` of a step is the resident memory of a fresh process that trains, on a GPU the memory allocated.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from fastinpaint.bench import rows
from fastinpaint.bench.contenders import Workload
from fastinpaint.bench.machine import ceilings, commit, describe, synchronise
from fastinpaint.bench.measure import Timing, allocated_bytes, device_times

LEAST, MOST = 6, 200  # timed rounds of a benchmark


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastinpaint")
    group.addoption("--device", default="cpu", help="cpu or cuda")
    group.addoption("--frames", type=int, help="frames of a video (CPU: 4; GPU: 32)")
    group.addoption("--rounds-seconds", type=float, default=0.3, help="timed seconds of each benchmark, about")
    group.addoption("--rows", type=Path, help="file that the rows are appended to")


@pytest.fixture(scope="session")
def workload(request: pytest.FixtureRequest) -> Workload:
    """One video at the paper's size; on a CPU with fewer frames and in float32."""
    device = request.config.getoption("--device")
    if device.startswith("cuda") and not torch.cuda.is_available():
        pytest.exit("--device cuda: torch sees no CUDA device here.", returncode=2)
    on_gpu = device.startswith("cuda")
    torch.backends.cudnn.benchmark = on_gpu
    frames = request.config.getoption("--frames") or (32 if on_gpu else 4)
    return Workload(frames=frames, dtype="bfloat16" if on_gpu else "float32", device=device)


@pytest.fixture(scope="session")
def rows_file(request: pytest.FixtureRequest, workload: Workload) -> Path:
    """Where the rows of this run go."""
    name = f"{commit()}-{workload.device.split(':')[0]}.jsonl"
    return request.config.getoption("--rows") or Path(__file__).parent / "results" / name


@pytest.fixture
def measure(
    benchmark: Any, request: pytest.FixtureRequest, workload: Workload, rows_file: Path
) -> Callable[..., Timing]:
    """Times a callable and appends its row: percentiles, rates, percent of this machine's floor, memory, versions.

    Ops and layers are timed on a GPU by its own clock with a cold cache; all else by the wall clock around one call.
    """
    device = torch.device(workload.device)
    seconds = request.config.getoption("--rounds-seconds")

    def run(work: Callable[[], Any], case: str, contender: str, flops: int = 0, moved: int = 0, **more: Any) -> Timing:
        def synchronised() -> None:
            work()
            synchronise(device)

        synchronised()
        start = time.perf_counter()
        synchronised()
        once = time.perf_counter() - start
        rounds = max(LEAST, min(MOST, int(seconds / max(once, 1e-6))))
        benchmark.group = case
        benchmark.pedantic(synchronised, rounds=rounds)
        by_device = device.type == "cuda" and more.get("kind") in ("op", "layer")
        timing = Timing.of(device_times(work, device, rounds) if by_device else benchmark.stats.stats.data)
        if "peak_bytes" not in more:
            more["peak_bytes"] = allocated_bytes(work, device)
        ceiling = ceilings(device, workload.torch_dtype)
        floor = max(flops / (1e12 * ceiling["matmul_tflops"]), moved / (1e9 * ceiling["copy_gbs"]))
        row: dict[str, Any] = {
            "case": case,
            "contender": contender,
            "clock": "device" if by_device else "wall",
            "p20": timing.p20,
            "p50": timing.p50,
            "p80": timing.p80,
            "runs": timing.runs,
            "drift": timing.drift,
            "noisy": timing.noisy,
            "gflops": flops / timing.p50 / 1e9 or None,
            "gbs": moved / timing.p50 / 1e9 or None,
            "floor_seconds": floor or None,
            "percent_of_floor": 100 * floor / timing.p50 or None,
            **more,
        }
        benchmark.extra_info.update(row)
        rows.append(rows_file, [describe(device) | {"ceilings": ceiling} | row])
        return timing

    return run


@pytest.fixture
def leave_out(workload: Workload, rows_file: Path) -> Callable[[str, str, str], None]:
    """Leaves a row that says why a contender was not measured, and skips."""

    def skip(case: str, contender: str, reason: str) -> None:
        machine = describe(torch.device(workload.device))
        rows.append(rows_file, [machine | {"case": case, "contender": contender, "not_measured": reason}])
        pytest.skip(f"not measured: {reason}")

    return skip
