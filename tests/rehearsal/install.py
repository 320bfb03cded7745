"""Gives this process a stand-in for a GPU, before anything imports torch, and sizes that it can bear."""

from __future__ import annotations

from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"
NO_RESULTS = "a rehearsal's rows are no results"


def install() -> None:
    """The stand-in and its kernels."""
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
    """Where the library asks whether it sees ordinary tensors, it does."""
    import torch

    from fastinpaint.ops.dispatch import autotune, fast_path
    from tests.rehearsal.tensors import StandIn

    fast_path.can_bypass_dispatcher = lambda *tensors: not torch.compiler.is_compiling()
    autotune.type = lambda value: torch.Tensor if isinstance(value, StandIn) else type(value)  # type: ignore[attr-defined]


def shrink() -> None:
    """For what is timed: two frames of 16 x 16, a sixteenth of the channels, small tiles, little to copy."""
    from fastinpaint.bench import contenders, machine, measure
    from tests.rehearsal import kernels

    contenders.Workload.__init__.__defaults__ = (2, 16, 1, 2, 1 / 16, "float32", "cpu", "auto", 0)  # type: ignore[misc]
    machine.SIZES["cuda"] = (1 << 12, 64)
    measure.FLUSHED = 1 << 10
    kernels.few_tiles()


def _refuse_results() -> None:
    """No row of a rehearsal goes where results are kept."""
    from fastinpaint.bench import rows

    append = rows.append

    def refusing(path: Path, found: list[dict[str, Any]]) -> None:
        if path.resolve().is_relative_to(RESULTS):
            raise PermissionError(f"{path}: {NO_RESULTS}.")
        append(path, found)

    rows.append = refusing
