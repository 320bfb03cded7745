"""Installs the fake GPU before torch is imported, and reduces sizes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
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
    from fastinpaint import graph
    from fastinpaint.bench import contenders, machine, measure
    from tests.rehearsal import gradients, kernels

    gradients.compare_in_float32_too()
    _set(graph, WARM_UP=1)
    _set(contenders, WARM_UP=1)
    contenders.Workload.__init__.__defaults__ = (2, 16, 1, 2, 1 / 16, "float32", "cpu", "auto", 0)  # type: ignore[misc]
    machine.SIZES["cuda"] = (1 << 12, 64)
    _set(measure, FLUSH_BYTES=1 << 10)
    kernels.few_tiles()


def _set(module: ModuleType, **values: object) -> None:
    """Change constants of a module that it has."""
    for name, value in values.items():
        assert hasattr(module, name), f"{module.__name__} has no {name}"
        setattr(module, name, value)


def _refuse_results() -> None:
    """Keep a rehearsal's rows out of the results folder."""
    from fastinpaint.bench import rows

    append = rows.append

    def refusing(path: Path, found: list[dict[str, Any]]) -> None:
        if path.resolve().is_relative_to(RESULTS):
            raise PermissionError(f"{path}: {NO_RESULTS}.")
        append(path, found)

    rows.append = refusing
