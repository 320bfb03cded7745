"""The plan of ``make gpu-check``: its commands in order, with their time limits and ranks."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tools.inspect import sass

PARTS = ("build", "tests", "sanitizers", "tune", "bench", "report")


@dataclass
class Step:
    """One command of a part.

    Attributes:
        limit: seconds after which it is stopped.
        least: with fewer seconds left it is not started.
        rank: 1 is most important. A step leaves later steps of a smaller rank their `least` seconds.
        environment: additional environment variables.
        last: the last line of its log.
    """

    part: str
    name: str
    command: list[str]
    limit: int
    least: int
    rank: int
    environment: dict[str, str] = field(default_factory=dict)
    status: str = "not run"
    seconds: float = 0.0
    last: str = ""


def plan(out: Path) -> list[list[Step]]:
    """Groups of steps. Steps of a group run in parallel; timed steps are alone in their group.

    The most important steps come first or have time reserved. The limits add up to more than the total, because steps
    that end early leave their time to later ones. The limits are for one large GPU with 16 cores; the real times have
    not been measured yet. Kernel measurements are remembered in the output folder only.
    """
    groups = [*_build(), _tests(out), _sanitizers(), *_bench(out), [_report(out)]]
    for step in (step for group in groups for step in group):
        alone = step.part in ("bench", "tune")  # steps that run in parallel must not measure
        step.environment["FASTINPAINT_CACHE"] = str(out / ("chosen" if alone else "disturbed"))
    return groups


def _pytest(*arguments: str, workers: int = 0) -> list[str]:
    """pytest with one line per test, in several processes if pytest-xdist is installed."""
    shared = ["-n", str(workers), "--dist", "worksteal"] if workers and importlib.util.find_spec("xdist") else []
    return [sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:cacheprovider", *shared, *arguments]


def _folders(backend: str) -> list[str]:
    """The folders of a backend's tests; the folder of all ops comes first."""
    root = Path(__file__).parents[1]
    found = [path.relative_to(root).as_posix() for path in (root / "tests" / "ops").glob(f"**/{backend}")]
    return sorted(found, key=lambda name: (name.count("/"), name))


def _fastinpaint(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "fastinpaint", *arguments]


def _fuzz(backend: str, cases: int) -> list[str]:
    fuzz = [sys.executable, "-m", "fastinpaint.testing.fuzz", "--device", "cuda"]
    return [*fuzz, "--backend", backend, "--cases", str(cases)]


def _build() -> list[list[Step]]:
    """Build the kernels for this GPU only, in a third of the time for all architectures."""
    command = [sys.executable, "setup.py", "build_ext", "--inplace"]
    return [
        [Step("build", "build", command, 120, 60, 1, {"FASTINPAINT_CUDA": "1"} | _architecture())],
        [Step("build", "info", _fastinpaint("info"), 20, 5, 2)],
    ]


def _architecture() -> dict[str, str]:
    import torch

    if not torch.cuda.is_available():
        return {}
    major, minor = torch.cuda.get_device_capability()
    return {"FASTINPAINT_CUDA_ARCHS": f"{major}{minor}{'a' if major >= 9 else ''}"}


def _tests(out: Path) -> list[Step]:
    """Tests with real launches, all backends in parallel, because most of their time is Python and compilers.

    In parallel every Triton kernel of the layers is compiled, which would take minutes of the timed steps.
    """
    cuda = _pytest(*_folders("cuda"), "-k", "not emulated and not sanitiz", workers=4)
    layers = ("benchmarks", "--device", "cuda", "--benchmark-disable", "--rounds-seconds", "0", "-k")
    compiled = _pytest(*layers, "test_layer and triton", "--rows", str(out / "compiled.jsonl"), workers=5)
    return [
        Step("tests", "cuda", cuda, 110, 20, 2),
        Step("tests", "triton", _pytest(*_folders("triton"), workers=4), 110, 20, 2),
        Step("tests", "system", _pytest("tests/gpu", workers=3), 110, 20, 2),
        *(Step("tests", f"fuzz {name}", _fuzz(name, 40), 90, 20, 2) for name in ("cuda", "triton", "library")),
        Step("tests", "compile triton", compiled, 110, 20, 2),
    ]


def _bench(out: Path) -> list[list[Step]]:
    """The step by this library and the fastest plain PyTorch first, then the rest. Rows are kept as they come.

    Contenders have separate steps, because cuDNN's autotuning before the first step takes very different times.
    """
    rows = str(out / "rows.jsonl")

    def bench(name: str, chosen: str, limit: int, least: int, rank: int, *more: str) -> list[Step]:
        command = _pytest("benchmarks", "--benchmark-only", "--device", "cuda", "--rows", rows, "-k", chosen, *more)
        return [Step("bench", name, command, limit, least, rank)]

    first = "(fastinpaint or channels) and not (triton or library or low or wgmma or graph)"
    rest = f"not ({first}) and not (triton or compile or graph)"
    quick = ("--rounds-seconds", "0.05", "--benchmark-columns", "median")
    return [
        bench("step", f"training_step and {first}", 45, 20, 3),
        bench("step others", f"(inference and not compile) or (training_step and {rest})", 45, 20, 3),
        bench("step triton", "training_step and triton and not graph", 50, 20, 4),
        bench("compile", "training_step and compile and not (autotune or overhead)", 80, 30, 4),
        bench("step graphs", "training_step and graph", 60, 20, 5),
        bench("compile graph", "training_step and overhead", 60, 30, 5),
        bench("ops", "test_ops", 45, 10, 5, *quick),
        bench("layers", "test_layer and not triton", 75, 20, 6, *quick),
        bench("layers triton", "test_layer and triton", 50, 20, 6, *quick),
        bench("groups", "test_groups", 40, 15, 7, *quick),
        bench(
            "beyond",
            "training_step and (channels or fastinpaint) and not (triton or graph)",
            *(45, 20, 7, "--frames", "128"),
        ),
        [Step("bench", "largest", _largest(rows), 60, 30, 8)],
        [Step("tune", "tune", _fastinpaint("tune", "--device", "cuda"), 60, 20, 8)],
        bench("max-autotune", "(training_step and autotune) or (inference and compile)", 120, 45, 9),
    ]


def _largest(rows: str) -> list[str]:
    """The most frames that train in this GPU's memory, by plain PyTorch and by this library."""
    import torch

    memory = torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else 1
    asked = ("--device", "cuda", "--dtype", "bfloat16", "--max-frames", f"{0.95 * memory:.1f}", "--axes", "frames")
    return _fastinpaint("bench", *asked, "--contenders", "eager channels-last", "fastinpaint", "--out", rows)


def _sanitizers() -> list[Step]:
    """NVIDIA's compute-sanitizer tools on a few random cases each. Full checks run emulated under other sanitizers.

    They check this library's kernels only: torch's would take most of the time, and its expected failures would count
    as errors. initcheck has to see all writes. Every tensor is a separate allocation, so that reading past its end is
    detected.
    """
    every = ["--error-exitcode", "9", "--report-api-errors", "no", "--target-processes", "application-only"]
    steps = []
    for i, (tool, cases) in enumerate({"memcheck": 12, "racecheck": 6, "synccheck": 6, "initcheck": 6}.items()):
        ours = [] if tool == "initcheck" else ["--kernel-name", "kernel_substring=_ZN2fi"]  # namespace fi
        command = [_compute_sanitizer(), "--tool", tool, "--port", str(49152 + 100 * i), *every, *ours]
        step = Step("sanitizers", tool, [*command, *_fuzz("cuda", cases), "--unjudged"], 50, 25, 2)
        step.environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
        steps.append(step)
    return steps


def _compute_sanitizer() -> str:
    """compute-sanitizer from PATH, or beside nvcc."""
    nvcc = sass.nvcc()
    beside = str(Path(nvcc).resolve().parent) if nvcc else None
    name = "compute-sanitizer"
    return shutil.which(name) or (beside and shutil.which(name, path=beside)) or name


def _report(out: Path) -> Step:
    command = [sys.executable, "-m", "benchmarks.report", "--out", str(out / "report")]
    return Step(
        "report",
        "report",
        [*command, str(out / "rows.jsonl"), "--check", str(out / "summary.json")],
        30,
        15,
        1,
    )
