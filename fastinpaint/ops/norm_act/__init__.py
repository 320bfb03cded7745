"""`norm_act`: normalisation by given statistics, addition and activation in one pass. See `reference`."""

from __future__ import annotations

from fastinpaint.ops.norm_act.types import ACTS, NONE, RELU, Act, Form

__all__ = ["ACTS", "NONE", "RELU", "Act", "Form"]
