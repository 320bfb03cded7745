"""Every choice that shapes a network, in one small frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from fastinpaint.errors import UserError, shown
from fastinpaint.ranges import WIDTH, Number, whole

Skips = Literal["concat", "add"]
Guidance = Literal["after", "before"]
Preset = Literal["paper", "chang2019"]

RANGES: dict[str, Number] = {"width": WIDTH, "r": whole(1, 4), "deconv_time": whole(1, 64), "time_stride": whole(1, 2)}
"""Of the numbers among the options."""


@dataclass(frozen=True)
class ModelConfig:
    """How the networks of Wang et al. 2019 are built; the defaults are the paper's.

    Attributes:
        width: factor on every layer's channels but the last one's 3.
        r: how much smaller 3DCN's frames are: 1, 2 (paper) or 4 (variant V-1). Guidance joins the first and the last
            map of CombCN with that size.
        skips: skip connections join by concatenation over channels, as in U-Net, or by addition.
        guidance: whether the guidance is added after a layer's batch norm and ReLU, or before them.
        deconv_time: taps in time of 3DCN's two deconvolutions (Table 1 gives one number for all axes, 4).
        time_stride: 1, or 2 (variant V-2): stride in time of 3DCN's layers 2 and 4, undone by layers 9 and 11.
        preset: ``paper``, or ``chang2019``, the way a public re-implementation builds them: conv, ReLU, then batch
            norm; the guiding RGB frames concatenated to the inputs of the layers after the two places; holes filled
            with zero.
        composite_guidance: whether 3DCN's output gets its known pixels back before it guides CombCN.

    Raises:
        UserError: for a value that is none of these.
    """

    width: float = 1.0
    r: int = 2
    skips: Skips = "concat"
    guidance: Guidance = "after"
    deconv_time: int = 4
    time_stride: int = 1
    preset: Preset = "paper"
    composite_guidance: bool = True

    def __post_init__(self) -> None:
        known: dict[str, tuple[Any, ...]] = {
            "r": (1, 2, 4),
            "skips": get_args(Skips),
            "guidance": get_args(Guidance),
            "time_stride": (1, 2),
            "preset": get_args(Preset),
            "composite_guidance": (False, True),
        }
        for name, values in known.items():
            value = getattr(self, name)
            if type(value) is not type(values[0]) or value not in values:
                names = ", ".join(map(str, values))
                raise UserError(f"model config: {name} must be one of {names}, got {shown(value)}.")
        for name, kinds in (("width", (int, float)), ("deconv_time", (int,))):
            value = getattr(self, name)
            if type(value) not in kinds:  # text is converted before, where it comes from
                raise UserError(f"model config: {name} must be {RANGES[name]}, got {shown(value)}.")
            RANGES[name].checked(f"model config: {name}", value)
        if self.preset == "chang2019" and self.guidance != "after":
            raise UserError("model config: preset chang2019 concatenates its guidance, so guidance must be 'after'.")

    @property
    def zero_fill(self) -> bool:
        """Whether holes are filled with zero instead of the training set's mean pixel."""
        return self.preset == "chang2019"

    def channels(self, table_channels: int) -> int:
        """A hidden layer's channels: those of Table 1 times `width`, at least one."""
        return max(1, round(table_channels * self.width))

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON or YAML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The config of `to_dict`; missing fields take their defaults, unknown ones raise `UserError`."""
        if not isinstance(values, Mapping):
            raise UserError(f"model config: must be a mapping of options to values, got {shown(values)}.")
        known = [field.name for field in fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise UserError(f"model config: unknown option {shown(unknown[0])}; known: {', '.join(known)}.")
        return cls(**values)
