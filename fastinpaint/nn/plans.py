"""What a convolution layer computes once for each shape of its input."""

from __future__ import annotations

from typing import Any

import torch

from fastinpaint.ops.conv_block import cpu
from fastinpaint.ops.conv_block.torch_library import Call
from fastinpaint.ops.dispatch import registry
from fastinpaint.ops.types import Geometry

MOST = 64  # shapes a layer remembers


class Plan:
    """One shape of the input.

    Attributes:
        question: what the plan is valid for: the layer's settings, and the shapes of weight and bias.
        geometry, shape: the convolution's geometry, and the shape of its result.
        light: whether torch's own layers are faster without gradients: a fused layer saves less than its calls in
            Python take.
        of_vectors: whether input and result have one place a sample, and a bias, so that no batch norm follows, as in
            squeeze-and-excitation: there torch's own layer is faster with gradients too.
        calls: the calls made so far, by everything else that they depend on; see `fastinpaint.nn.pending_conv`.
        chained: those behind another convolution; None for where there can be none; see `fastinpaint.nn.chain`.
    """

    __slots__ = ("calls", "chained", "geometry", "light", "of_vectors", "question", "shape")

    def __init__(
        self, question: tuple[Any, ...], geometry: Geometry, shape: torch.Size, light: bool, of_vectors: bool = False
    ) -> None:
        self.question, self.geometry, self.shape = question, geometry, shape
        self.light, self.of_vectors = light, of_vectors
        self.calls: dict[tuple[Any, ...], Call] = {}
        self.chained: dict[tuple[Any, ...], Call | None] = {}


def is_light(shape: torch.Size, device: torch.device, backend: str) -> bool:
    """Whether a map is so small that torch's own layers are faster without gradients; see `Plan`."""
    return device.type == "cpu" and shape.numel() < cpu.LEAST_PLAIN and registry.requested(backend) == "auto"


class Plans(dict[Any, Plan]):
    """A layer's plans, by the shape of its input or by all of their question. A copy of the layer makes its own."""

    def __reduce__(self) -> tuple[type[Plans], tuple[()]]:
        return Plans, ()

    def __deepcopy__(self, memo: object) -> Plans:
        return Plans()

    def keep(self, key: Any, plan: Plan) -> Plan:
        """Remember a plan. If there are too many, forget the others."""
        if len(self) >= MOST:
            self.clear()
        self[key] = plan
        return plan
