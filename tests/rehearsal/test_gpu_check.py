"""``make gpu-check`` rehearsed: its steps succeed on a fake GPU, and no row is kept as a result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu_plan
from fastinpaint.bench import rows
from tests.rehearsal.install import NO_RESULTS, RESULTS
from tools.verify import emulated

MISTAKES = {
    "a map on the CPU": (
        "import torch; torch.ones(3, device='cuda') + torch.ones(3)",
        "Expected all tensors to be on the same device",
    ),
    "a value while a graph is recorded": (
        "import torch\nx = torch.ones(3, device='cuda')\nwith torch.cuda.graph(torch.cuda.CUDAGraph()): x.sum().item()",
        "operation not permitted when stream is capturing",
    ),
    "memory of the CPU for a kernel": (
        "import torch\nfrom fastinpaint.ops.activation import cuda\nfrom fastinpaint.ops.types import Source\n"
        "x = torch.ones(1, 8, 2, 2, device='cuda')\ncuda.fwd([Source(x, *torch.ones(3, 8), True)])",
        "an illegal memory access",
    ),
    "a row among the results": (
        f"from pathlib import Path\nfrom fastinpaint.bench import rows\nrows.append(Path({str(RESULTS)!r}) / 'x', [])",
        NO_RESULTS,
    ),
}

FREE = "import torch\nfrom fastinpaint.memory import require\nrequire('tune: a step', 1 << 30, torch.device('cuda:0'))"


@pytest.fixture(autouse=True)
def _possible() -> None:
    if (reason := emulated.why_not()) is not None:
        pytest.skip(reason)
    pytest.importorskip("triton")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    own = {name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_WORKER"}  # it is no test's worker
    return subprocess.run(
        command, cwd=emulated.ROOT, env=own, capture_output=True, text=True, timeout=1500, check=False
    )


def test_every_step_ends_well(tmp_path: Path) -> None:
    done = run("-m", "tests.rehearsal", "--out", str(tmp_path), "--seconds", "9000")
    logs = "\n".join(path.read_text()[-3000:] for path in tmp_path.glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert {step["part"] for step in summary} == set(gpu_plan.PARTS) - {"tune"}
    found = rows.read([tmp_path / "rows.jsonl"])
    assert {row["device"] for row in found} == {"a rehearsal's stand-in for a GPU"}
    ours = {"fastinpaint", "fastinpaint cuda", "fastinpaint triton", "fastinpaint library"}
    assert {row["contender"] for row in found} == {"eager", "eager channels-last", "compile", "cudnn graph", *ours}
    assert (tmp_path / "report" / "layers.png").exists()


EACH = """
import json, sys
from tests.rehearsal.install import install
install()
said = {}
for name, (program, _) in json.loads(sys.argv[1]).items():
    try:
        exec(program, {})
    except Exception as error:
        said[name] = str(error)
print(json.dumps(said))
"""


def test_it_refuses_what_a_gpu_would_and_gives_free_memory() -> None:
    """Free memory is asked for as before tuning."""
    done = run("-c", EACH, json.dumps({**MISTAKES, "none": (FREE, "")}))
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said.keys() == MISTAKES.keys()
    for name, (_, sentence) in MISTAKES.items():
        assert sentence in said[name], name


def test_no_result_is_a_rehearsals() -> None:
    found = rows.read(sorted(RESULTS.glob("*.jsonl")))
    assert found
    assert not [row for row in found if "rehearsal" in row["device"]]


def test_the_sanitizers_are_given_commands_that_run(tmp_path: Path) -> None:
    """Options that compute-sanitizer 2025.3 (CUDA 13.0) and 2026.4 take with each tool."""
    steps = [step for group in gpu_plan.plan(tmp_path) for step in group if step.part == "sanitizers"]
    assert [step.command[1:3] for step in steps] == [["--tool", step.name] for step in steps]
    known = {"--tool", "--port", "--error-exitcode", "--report-api-errors", "--target-processes", "--kernel-name"}
    for step in steps:
        at = step.command.index(sys.executable)
        assert set(step.command[1:at:2]) <= known
        assert ("--kernel-name" in step.command) == (step.name != "initcheck")  # which must see all that is written
        assert step.command[at + 1 : at + 5] == ["-m", "fastinpaint.testing.fuzz", "--device", "cuda"]
        assert step.command[-1] == "--unjudged"
        assert step.environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1"
    assert len({step.command[step.command.index("--port") + 1] for step in steps}) == len(steps)


def test_every_cuda_kernel_is_in_the_namespace_that_the_sanitizers_watch() -> None:
    for source in sorted((emulated.ROOT / "csrc").rglob("*.cu*")):
        if "__global__" in (text := source.read_text()) and source.parent.name != "cuda_on_cpu":
            assert text.index("namespace fi {") < text.index("__global__"), source
