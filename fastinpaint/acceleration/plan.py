"""`Plan`: which layers of a model are fused, in which memory layout it runs. Changes nothing by itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

STOCK, DEFAULT, LOW = "stock", "default", "low"


@dataclass(frozen=True)
class Plan:
    """A choice for a whole model; layers are named as in ``model.named_modules()``.

    Attributes:
        channels_last: whether weights and the inputs at the root are channels-last; None leaves both as they are.
        fused: the tier, "default" or "low", of every convolution and batch norm that is fused.
        everything: whether every layer that can be is fused, whatever `fused` names, with the tier `memory`.
        contiguous: whether what leaves the fused layers is contiguous, for code that merges axes by ``view``.
        memory: the tier where everything is fused.
        plain: layers that hand on plain tensors, as something reads them that knows no others.
        by_rule: whether every batch norm and ReLU is fused that a fused convolution comes before.
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
