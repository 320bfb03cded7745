"""Shared by all benchmarks: the device, the timing, and the rows of results.

    pytest benchmarks --benchmark-only                      on the CPU, in minutes
    pytest benchmarks --benchmark-only --device cuda        at the paper's size and beyond, in bfloat16

Each benchmark compares its result with plain PyTorch before it is timed. Ops and layers are timed in several turns
(`benchmarks.turn_schedule`), and the fastest turn becomes the row. Rows are appended to
``benchmarks/results/<commit>-<device>.jsonl`` (or the file of ``--rows``). `benchmarks.compare` compares two runs.

For ops and layers, ``peak_bytes`` is what torch allocates during one call, and ``kept_bytes`` what autograd keeps of
it. For a step, ``peak_bytes`` is the resident memory of a new process that trains; on a GPU it is the allocated memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.turn_schedule import MINUTES, TURNS, TurnSchedule
from fastinpaint.bench import rows
from fastinpaint.bench.contenders import ON_GPUS, Workload
from fastinpaint.bench.machine import ceilings, commit, describe, rates, synchronise
from fastinpaint.bench.measure import Timing, allocated_bytes, device_times

LEAST, MOST = 6, 200  # timed rounds of a benchmark in one turn
SCHEDULE, WAITING = (
    pytest.StashKey[TurnSchedule](),
    pytest.StashKey[dict[tuple[str, str], tuple[Path, dict[str, Any]]]](),
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fastinpaint")
    group.addoption("--device", default="cpu", help="cpu or cuda")
    group.addoption("--frames", type=int, help="frames of a video (CPU: 4; GPU: 32)")
    group.addoption("--rounds-seconds", type=float, default=0.3, help="timed seconds of each benchmark, about")
    group.addoption("--rows", type=Path, help="file that the rows are appended to")
    group.addoption(
        "--turns", type=int, nargs=2, metavar=("LEAST", "MOST"), help="of ops and layers (CPU: 3 8; GPU: 1 1)"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "in_turns: timed in several turns")
    least, most = (
        config.getoption("--turns") or TURNS["cuda" if config.getoption("--device").startswith("cuda") else "cpu"]
    )
    config.stash[SCHEDULE] = TurnSchedule(least, max(least, most), time.monotonic() + 60 * MINUTES)
    config.stash[WAITING] = {}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.definition.get_closest_marker("in_turns") is not None:
        turns = range(metafunc.config.stash[SCHEDULE].most)
        metafunc.parametrize("turn", turns, indirect=True, ids=lambda turn: f"turn{turn + 1}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort by turn, with a case's contenders one after another. What only a GPU runs is deselected on a CPU."""
    if not config.getoption("--device").startswith("cuda"):
        items[:] = [item for item in items if set(ON_GPUS).isdisjoint(map(str, parameters_of(item).values()))]
    items.sort(key=lambda item: parameters_of(item).get("turn", 0))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the rows of the cases that could have had another turn."""
    for path, row in session.config.stash[WAITING].values():
        rows.append(path, [row])


def parameters_of(item: pytest.Item) -> dict[str, Any]:
    """The parameters of a test."""
    return dict(item.callspec.params) if hasattr(item, "callspec") else {}


@pytest.fixture(autouse=True)
def turn(request: pytest.FixtureRequest) -> int:
    """The number of this turn, from 0. An unnecessary turn is skipped before anything is built."""
    number = getattr(request, "param", 0)
    if not request.config.stash[SCHEDULE].wanted(case_of(request.node), number):
        pytest.skip("no further turn: the fastest was repeated, or the time is up")
    return number


def case_of(item: pytest.Item) -> tuple[Any, ...]:
    """The case, on which contenders are compared."""
    given = parameters_of(item)
    return (
        item.nodeid.partition("[")[0],
        *(given[name] for name in sorted(given) if name not in ("contender", "turn")),
    )


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
    """The file of this run's rows."""
    name = f"{commit()}-{workload.device.split(':')[0]}.jsonl"
    return request.config.getoption("--rows") or Path(__file__).parent / "results" / name


@pytest.fixture
def measure(
    benchmark: Any, request: pytest.FixtureRequest, workload: Workload, rows_file: Path, turn: int
) -> Callable[..., Timing]:
    """Time a callable and append its row: percentiles, rates, percent of this machine's floor, memory, versions.

    On a GPU, ops and layers are timed by the GPU's clock with a cold cache. All else uses the wall clock per call.
    """
    device = torch.device(workload.device)
    seconds = request.config.getoption("--rounds-seconds")
    schedule, waiting = request.config.stash[SCHEDULE], request.config.stash[WAITING]

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
        turns = schedule.add(
            case_of(request.node),
            contender,
            Timing.of(device_times(work, device, rounds) if by_device else benchmark.stats.stats.data),
        )
        timing, before = Timing.fastest(turns), waiting.pop((case, contender), None)
        if before is not None:
            more["peak_bytes"] = before[1]["peak_bytes"]
        elif "peak_bytes" not in more:
            more["peak_bytes"] = allocated_bytes(work, device)
        row: dict[str, Any] = {
            "case": case,
            "contender": contender,
            "clock": "device" if by_device else "wall",
            "p20": timing.p20,
            "p50": timing.p50,
            "p80": timing.p80,
            "runs": timing.runs,
            "turns": len(turns),
            "drift": timing.drift,
            "noisy": timing.noisy,
            **rates(timing.p50, flops, moved, ceilings(device, workload.torch_dtype)),
            **more,
        }
        benchmark.extra_info.update(row)
        row = describe(device) | row
        if request.node.get_closest_marker("in_turns") is not None and turn + 1 < schedule.most:
            waiting[case, contender] = rows_file, row
        else:
            rows.append(rows_file, [row])
        return timing

    return run


@pytest.fixture
def leave_out(workload: Workload, rows_file: Path, turn: int) -> Callable[[str, str, str], None]:
    """Write a row with the reason why a contender is not measured, and skip it."""

    def skip(case: str, contender: str, reason: str) -> None:
        machine = describe(torch.device(workload.device))
        if turn == 0:
            rows.append(rows_file, [machine | {"case": case, "contender": contender, "not_measured": reason}])
        pytest.skip(f"not measured: {reason}")

    return skip
