"""The options that define a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from fastinpaint.errors import UserError, shown
from fastinpaint.ranges import WIDTH, Number, whole

Skips = Literal["concat", "add"]
Guidance = Literal["after", "before"]
Preset = Literal["paper", "chang2019"]
Fill = Literal["mean", "propagated"]

RANGES: dict[str, Number] = {"width": WIDTH, "r": whole(1, 4), "deconv_time": whole(1, 64), "time_stride": whole(1, 2)}
"""Ranges of the numeric options."""


@dataclass(frozen=True)
class ModelConfig:
    """Options of the networks of Wang et al. 2019. The defaults are the paper's.

    Attributes:
        width: factor on every layer's channels, except the last layer's 3.
        r: down-sampling factor of 3DCN's frames: 1, 2 (paper) or 4 (variant V-1). Guidance joins CombCN's first and
            last maps of that size.
        skips: how skip connections join: by channel concatenation, as in U-Net, or by addition.
        guidance: whether guidance is added after or before a layer's batch norm and ReLU.
        deconv_time: kernel size in time of 3DCN's two deconvolutions (Table 1 gives one number, 4, for all axes).
        time_stride: stride in time of 3DCN's layers 2 and 4, undone by layers 9 and 11: 1, or 2 (variant V-2).
        preset: ``paper``, or ``chang2019``, as in a public re-implementation: batch norm after ReLU; guidance as RGB
            frames concatenated to the inputs of the layers after the two places; holes filled with zero.
        composite_guidance: whether 3DCN's output gets its known pixels back before it guides CombCN.
        fill: ``mean``, holes filled with the training set's mean pixel, as in the paper; or ``propagated``, holes
            filled by `fastinpaint.propagation`, which the networks correct where its confidence is below 1.

    Raises:
        UserError: for an invalid value.
    """

    width: float = 1.0
    r: int = 2
    skips: Skips = "concat"
    guidance: Guidance = "after"
    deconv_time: int = 4
    time_stride: int = 1
    preset: Preset = "paper"
    composite_guidance: bool = True
    fill: Fill = "mean"

    def __post_init__(self) -> None:
        known: dict[str, tuple[Any, ...]] = {
            "r": (1, 2, 4),
            "skips": get_args(Skips),
            "guidance": get_args(Guidance),
            "time_stride": (1, 2),
            "preset": get_args(Preset),
            "composite_guidance": (False, True),
            "fill": get_args(Fill),
        }
        for name, values in known.items():
            value = getattr(self, name)
            if type(value) is not type(values[0]) or value not in values:
                names = ", ".join(map(str, values))
                raise UserError(f"model config: {name} must be one of {names}, got {shown(value)}.")
        for name, kinds in (("width", (int, float)), ("deconv_time", (int,))):
            value = getattr(self, name)
            if type(value) not in kinds:  # text has been converted where it was read
                raise UserError(f"model config: {name} must be {RANGES[name]}, got {shown(value)}.")
            RANGES[name].checked(f"model config: {name}", value)
        if self.preset == "chang2019" and self.guidance != "after":
            raise UserError("model config: preset chang2019 concatenates its guidance, so guidance must be 'after'.")

    @property
    def corrects(self) -> bool:
        """Whether the networks correct a propagated fill, instead of filling holes themselves."""
        return self.fill == "propagated"

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
        """The inverse of `to_dict`. Missing fields take their defaults; unknown ones raise `UserError`."""
        if not isinstance(values, Mapping):
            raise UserError(f"model config: must be a mapping of options to values, got {shown(values)}.")
        known = [field.name for field in fields(cls)]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise UserError(f"model config: unknown option {shown(unknown[0])}; known: {', '.join(known)}.")
        return cls(**values)
