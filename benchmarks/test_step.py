"""One training step of the whole system: forward, backward and Adam, beside every rival."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fastinpaint.bench.budget import run_child
from fastinpaint.bench.contenders import CONTENDERS, TOLERANCE, build, disagreement
from fastinpaint.bench.layers import layer_cases
from fastinpaint.bench.measure import kept_bytes


@pytest.mark.parametrize("name", CONTENDERS)
def test_training_step(name, workload, measure, request):
    """Seconds, kept-for-backward bytes and peak memory of a step."""
    if name == "compile max-autotune" and not (workload.device != "cpu" or request.config.getoption("--autotune")):
        pytest.skip("max-autotune takes minutes on a CPU: ask with --autotune")
    contender = build(name, workload)
    apart = disagreement(contender, build("eager", dataclasses.replace(workload, dtype="float32")))
    assert apart < TOLERANCE[workload.torch_dtype], f"gradients of {name} are {apart:.1e} off"
    flops = 6 * sum(case.macs() for case in layer_cases(workload))
    kept = kept_bytes(contender.forward, contender.model.parameters())
    child = None if name.startswith("compile") or workload.device != "cpu" else run_child(name, workload)
    memory = {"kept_bytes": kept} | ({"peak_bytes": child["peak_bytes"]} if child else {})
    measure(
        contender.step, "step", name, flops, frames=workload.frames, size=workload.size, disagreement=apart, **memory
    )


@pytest.mark.parametrize("name", ["eager", "eager channels-last", "fastinpaint"])
def test_inference(name, workload, measure):
    """A forward pass in eval mode, as when a video is filled."""
    contender, reference = build(name, workload), build("eager", dataclasses.replace(workload, dtype="float32"))
    contender.model.eval()
    reference.model.eval()

    @torch.inference_mode()
    def forward() -> torch.Tensor:
        mixed = workload.torch_dtype != torch.float32
        with torch.autocast(torch.device(workload.device).type, workload.torch_dtype, enabled=mixed):
            return contender.model(contender.video, contender.mask)[0]

    with torch.inference_mode():
        expected = reference.model(contender.video, contender.mask)[0]
    error = float((forward().float() - expected).norm() / expected.norm())
    assert error < (1e-4 if workload.torch_dtype == torch.float32 else 0.1), f"{name} is {error:.1e} off"
    flops = 2 * sum(case.macs() for case in layer_cases(workload))
    measure(forward, "inference", name, flops, frames=workload.frames, size=workload.size)
