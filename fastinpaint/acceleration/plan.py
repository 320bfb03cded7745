"""`Plan`: which layers of a model are fused, and in which memory layout the model runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

STOCK, DEFAULT, SUMS, LOW, LEAST = "stock", "default", "sums", "low", "least"


@dataclass(frozen=True)
class Plan:
    """A choice for a whole model. Layers are named as in ``model.named_modules()``.

    Attributes:
        channels_last: whether the weights and the model's inputs are channels-last; None leaves both unchanged.
        fused: the tier, "default", "sums", "low" or "least", of every fused convolution and batch norm.
        everything: fuse every layer that can be fused, with the tier `memory`, whatever `fused` contains.
        contiguous: whether the fused layers return contiguous tensors, for code that merges axes by ``view``.
        memory: the tier for `everything`.
        plain: layers that return plain tensors, because their reader needs them.
        by_rule: whether to fuse every batch norm and ReLU after a fused convolution.
    """

    channels_last: bool | None = None
    fused: dict[str, str] = field(default_factory=dict)
    everything: bool = False
    contiguous: bool = False
    memory: str = DEFAULT
    plain: tuple[str, ...] = ()
    by_rule: bool = False

    @property
    def stock(self) -> bool:
        """Whether no layer is fused."""
        return not self.fused and not self.everything

    def tier(self, name: str) -> str | None:
        """The tier of a convolution or batch norm, or None where it is stock."""
        return self.memory if self.everything else self.fused.get(name)

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "channels_last": self.channels_last,
            "fused": dict(self.fused),
            "contiguous": self.contiguous,
            "plain": list(self.plain),
        }

    @classmethod
    def from_dict(cls, known: dict[str, Any]) -> Plan:
        """The inverse of `to_dict`."""
        kept = {name: known[name] for name in ("channels_last", "fused", "contiguous")}
        return cls(**kept, plain=tuple(known["plain"]))
