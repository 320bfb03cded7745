"""Installs the fake GPU before torch is imported, and reduces sizes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
NO_RESULTS = "a rehearsal's rows are no results"


def install() -> None:
    """Install the fake GPU and its kernels."""
    from tests.rehearsal import guard

    guard.load()  # before anything else imports torch
    import torch

    from tests.rehearsal import cuda, kernels

    torch.set_num_threads(1)
    cuda.install()
    _unseen()
    kernels.install_cuda()
    kernels.install_triton()
    _refuse_results()


def _unseen() -> None:
    """Make the library treat fake tensors as ordinary ones."""
    import torch

    from fastinpaint.ops.dispatch import autotune, fast_path
    from tests.rehearsal.tensors import StandIn

    fast_path.can_bypass_dispatcher = lambda *tensors: not torch.compiler.is_compiling()
    autotune.type = lambda value: torch.Tensor if isinstance(value, StandIn) else type(value)  # type: ignore[attr-defined]


def shrink() -> None:
    """Reduce sizes for timed steps: two frames of 16 x 16, a sixteenth of the channels, small tiles and copies."""
    import torch

    from fastinpaint.bench import contenders, machine, measure
    from tests.rehearsal import kernels

    # batch norms of so few values amplify rounding: plain PyTorch's own gradients are farther than this from float32's
    contenders.TOLERANCE[torch.bfloat16] = 1.0
    contenders.Workload.__init__.__defaults__ = (2, 16, 1, 2, 1 / 16, "float32", "cpu", "auto", 0)  # type: ignore[misc]
    machine.SIZES["cuda"] = (1 << 12, 64)
    measure.FLUSHED = 1 << 10
    kernels.few_tiles()


def _refuse_results() -> None:
    """Keep a rehearsal's rows out of the results folder."""
    from fastinpaint.bench import rows

    append = rows.append

    def refusing(path: Path, found: list[dict[str, Any]]) -> None:
        if path.resolve().is_relative_to(RESULTS):
            raise PermissionError(f"{path}: {NO_RESULTS}.")
        append(path, found)

    rows.append = refusing
