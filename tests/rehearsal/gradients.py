"""Compares the gradients of a rehearsed training step in float32 too, and a CUDA graph's losses with launched steps'.

At a rehearsal's size batch norms of few values and ReLUs near zero amplify bfloat16's rounding: plain PyTorch's own
gradients in bfloat16 are 0.11 to 0.32 from its own in float32, by seed. In float32, every backend agrees to 1e-6.
"""

from __future__ import annotations

import dataclasses

import torch

from fastinpaint.bench import contenders
from fastinpaint.bench.contenders import TrainingStepRun, Workload
from tests.ops.cuda import tf32

ROUNDED, EXACT = 1.0, 1e-5  # allowed relative difference of gradients in bfloat16 and in float32
REPLAYED = 1e-3  # allowed relative difference of losses; Adam divides by a gradient's size, and so amplifies rounding
STEPS = 3  # with one warm-up: launched, captured, replayed

build, disagreement = contenders.build, contenders.disagreement


def compare_in_float32_too() -> None:
    """Make `contenders.disagreement` also compare what it is given in float32, and allow bfloat16 more rounding."""
    contenders.TOLERANCE[torch.bfloat16] = ROUNDED
    contenders.build = _named  # type: ignore[assignment]
    contenders.disagreement = _both  # type: ignore[assignment]


def _named(name: str, workload: Workload) -> TrainingStepRun:
    run = build(name, workload)
    run.name = name  # type: ignore[attr-defined]
    return run


def _both(ours: TrainingStepRun, reference: TrainingStepRun) -> float:
    name: str = ours.name  # type: ignore[attr-defined]
    workload = dataclasses.replace(ours.workload, dtype="float32")
    with tf32.allowed(False):
        apart = disagreement(build(name, workload), build("eager", workload))
        assert apart < EXACT, f"gradients of {name} in float32 are {apart:.1e} off"
        if ours.graphed is not None and ours.workload.backend != "triton":  # interpreted, six steps take minutes
            apart = _replayed(name, workload)
            assert apart < REPLAYED, f"losses of {name} are {apart:.1e} from those of launched steps"
    return disagreement(ours, reference)


def _replayed(name: str, workload: Workload) -> float:
    """The largest relative difference of the losses of steps in a graph from those of launched steps."""
    losses = []
    for contender in (name, name.removesuffix(" graph")):
        run = build(contender, workload)
        losses.append([run.step().item() for _ in range(STEPS)])
        assert run.graphed is None or run.graphed.refusal is None
    return max(abs(a / b - 1) for a, b in zip(*losses, strict=True))
