"""The whole system: one training step (forward, backward and Adam) and inference, beside every rival."""

from __future__ import annotations

import dataclasses
import functools

import pytest
import torch

from fastinpaint.bench.budget import run_child
from fastinpaint.bench.contenders import CONTENDERS, TOLERANCE, TrainingStepRun, Workload, build, disagreement
from fastinpaint.bench.layers import layer_cases
from fastinpaint.bench.measure import kept_bytes


@functools.cache
def reference(workload: Workload) -> TrainingStepRun:
    """Plain PyTorch in float32, which all contenders are compared with."""
    return build("eager", dataclasses.replace(workload, dtype="float32"))


@pytest.mark.parametrize("name", CONTENDERS)
def test_training_step(name, workload, measure):
    """Seconds, kept bytes and peak memory of a step."""
    contender = build(name, workload)
    apart = disagreement(contender, reference(workload))
    assert apart < TOLERANCE[workload.torch_dtype], f"gradients of {name} are {apart:.1e} off"
    flops = 6 * sum(case.needed_macs() for case in layer_cases(workload))
    memory = {"kept_bytes": kept_bytes(contender.forward, contender.model.parameters())}
    if workload.device == "cpu":
        child = None if name.startswith("compile") else run_child(name, workload)
        memory["peak_bytes"] = child and child["peak_bytes"]
    contender.warm_up()
    measure(contender.step, "step", name, flops, workload=dataclasses.asdict(workload), disagreement=apart, **memory)


@pytest.mark.parametrize("name", ["eager", "eager channels-last", "compile", "compile max-autotune", "fastinpaint"])
def test_inference(name, workload, measure):
    """A forward pass in eval mode, as for filling a video."""
    contender = build(name, workload)
    plain = build("eager", dataclasses.replace(workload, dtype="float32"))  # fresh running statistics
    for model in (contender.model, plain.model):
        model.eval()

    @torch.inference_mode()
    def forward() -> torch.Tensor:
        mixed = workload.torch_dtype != torch.float32
        with torch.autocast(torch.device(workload.device).type, workload.torch_dtype, enabled=mixed):
            return contender.call(contender.video, contender.mask)[0]

    with torch.inference_mode():
        expected = plain.model(plain.video, plain.mask)[0]
    error = float((forward().float() - expected).norm() / expected.norm())
    assert error < (1e-4 if workload.torch_dtype == torch.float32 else 0.1), f"{name} is {error:.1e} off"
    flops = 2 * sum(case.needed_macs() for case in layer_cases(workload))
    measure(forward, "inference", name, flops, workload=dataclasses.asdict(workload), kept_bytes=0)
