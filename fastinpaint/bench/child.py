"""Trains one contender on one workload for a few steps and prints a row of JSON.

`fastinpaint.bench.budget` runs it in a new process, so that the peak memory is the contender's alone.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch

from fastinpaint.bench.contenders import Workload, build
from fastinpaint.bench.machine import synchronise


def peak_bytes(device: torch.device) -> int:
    """The most memory held at once: allocated on a GPU, resident on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # getrusage would include the parent's peak: ru_maxrss survives fork and exec
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def main(request: str) -> None:
    """Train and print ``{"peak_bytes", "base_bytes", "seconds"}``."""
    asked = json.loads(request)
    workload = Workload(**asked["workload"])
    device = torch.device(workload.device)
    contender = build(asked["contender"], workload)
    base, seconds = peak_bytes(device), []
    for _ in range(asked["steps"]):
        synchronise(device)
        start = time.perf_counter()
        contender.step()
        synchronise(device)
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"peak_bytes": peak_bytes(device), "base_bytes": base, "seconds": min(seconds)}))


if __name__ == "__main__":
    main(sys.argv[1])
