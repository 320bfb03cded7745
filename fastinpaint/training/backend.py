"""The one place where the trainer meets the kernels: swap the model's layers for fused ones, if asked."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from fastinpaint.errors import UserError

BACKENDS = ("reference", "auto", "cpu", "cuda", "triton", "library")
MEMORY = ("default", "low")

Model = TypeVar("Model", bound=nn.Module)


def accelerate_model(model: Model, backend: str, memory: str = "default") -> Model:
    """``model`` as it is for ``reference``, else with its layers swapped for fused ones; names of weights stay.

    Raises:
        UserError: unknown backend or memory, or a backend that cannot run here, with its reason.
    """
    for name, value, known in (("backend", backend, BACKENDS), ("memory", memory, MEMORY)):
        if value not in known:
            raise UserError(f"{name}: unknown value {value!r}; known: {', '.join(known)}.")
    if backend == "reference":
        if memory != "default":
            raise UserError(f"memory: {memory} needs fused layers; choose a backend other than reference.")
        return model
    from fastinpaint import accelerate  # kept out of the reference trainer's imports

    try:
        return accelerate(model, backend=backend, memory=memory)
    except (NotImplementedError, ValueError) as error:
        raise UserError(f"backend {backend}: {error}") from None
