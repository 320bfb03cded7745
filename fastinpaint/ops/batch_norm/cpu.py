"""`batch_norm` on the CPU is the reference: torch on short vectors costs less than a node of the graph in Python."""

from __future__ import annotations

from torch import Tensor

from fastinpaint.ops.batch_norm.reference import IN_TORCH, Running, bwd, fwd

__all__ = ["IN_TORCH", "bwd", "fwd", "why_not"]


def why_not(var: Tensor, weight: Tensor | None, bias: Tensor | None, running: Running | None) -> str | None:
    """Why this cannot run here, in one sentence, or None."""
    return None if var.device.type == "cpu" else f"the cpu backend needs tensors on the cpu, got one on {var.device}."
