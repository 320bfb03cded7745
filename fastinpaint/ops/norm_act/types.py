"""What `norm_act` computes, apart from its tensors."""

from __future__ import annotations

import struct
from typing import NamedTuple

# In the order of `fi::Act` in csrc/norm_act/cpu.h.
ACTS = (
    "none",
    "relu",
    "relu6",
    "leaky_relu",
    "elu",
    "silu",
    "hardswish",
    "hardsigmoid",
    "sigmoid",
    "tanh",
    "gelu",
    "gelu_tanh",
    "softplus",
    "mish",
    "prelu",
)
# Their derivative can be read off their result: it is zero, one or the slope, by the result's sign and bounds.
FROM_RESULT = frozenset(("relu", "relu6", "leaky_relu"))


class Act(NamedTuple):
    """An activation.

    Attributes:
        kind: one of `ACTS`. The slopes of prelu are a tensor, which `norm_act` takes apart from this.
        parameter: the slope of leaky_relu, alpha of elu, beta of softplus (which is linear above 20 / beta).
    """

    kind: str = "none"
    parameter: float = 0.0

    @property
    def from_result(self) -> bool:
        """Whether backward can take act' from act's result."""
        return self.kind in FROM_RESULT and self.parameter >= 0

    @property
    def code(self) -> int:
        """`Source.relu` of it: the kind in the low 8 bits, the bits of the float parameter in the next 32."""
        (bits,) = struct.unpack("I", struct.pack("f", self.parameter))
        return ACTS.index(self.kind) | bits << 8


NONE, RELU = Act(), Act("relu")


def act_of(code: int) -> Act:
    """The inverse of `Act.code`, but for the rounding of the parameter."""
    (parameter,) = struct.unpack("f", struct.pack("I", code >> 8))
    return Act(ACTS[code & 0xFF], parameter)


class Form(NamedTuple):
    """What is computed.

    Attributes:
        act: the activation.
        eps: what is added to the variance.
        groups: groups of channels that share their statistics; 0: each channel has its own.
        of_batch: whether mean and var are x's own statistics, so that backward goes through them too.
    """

    act: Act = NONE
    eps: float = 0.0
    groups: int = 0
    of_batch: bool = False
