"""The contract of `activation`, checked once for every backend."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fastinpaint.ops.types import Source

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def check(sources: Sequence[Source], op: str = "activation") -> None:
    """Check that sources can be one activation.

    Raises:
        ValueError, TypeError: names the op, the source, what is needed and what came.
    """
    if not sources:
        raise ValueError(f"{op}: sources must hold at least one map, got none.")
    first = sources[0].x
    if first.dim() not in (4, 5):
        raise ValueError(f"{op}: sources[0].x must be [N, C, H, W] or [N, C, T, H, W], got {tuple(first.shape)}.")
    if first.dtype not in DTYPES:
        raise TypeError(f"{op}: sources[0].x must be float64, float32, bfloat16 or float16, got {first.dtype}.")
    for i, source in enumerate(sources):
        x, name = source.x, f"sources[{i}]"
        if x.dim() != first.dim() or x.shape[0] != first.shape[0] or x.shape[2:] != first.shape[2:]:
            raise ValueError(
                f"{op}: {name}.x must equal sources[0].x {tuple(first.shape)} but for the channels, "
                f"got {tuple(x.shape)}."
            )
        if x.dtype != first.dtype or x.device != first.device:
            raise TypeError(
                f"{op}: {name}.x must be {first.dtype} on {first.device} as sources[0].x, got {x.dtype} on {x.device}."
            )
        _check_vectors(source, name, op)
        addend = source.addend
        if addend is not None and (addend.shape != x.shape or addend.dtype != x.dtype or addend.device != x.device):
            raise ValueError(
                f"{op}: {name}.addend must be {tuple(x.shape)}, {x.dtype} on {x.device} as its x, "
                f"got {tuple(addend.shape)}, {addend.dtype} on {addend.device}."
            )


def _check_vectors(source: Source, name: str, op: str) -> None:
    """mean, scale and shift: all or none, one value a channel, in the wide dtype."""
    vectors = {"mean": source.mean, "scale": source.scale, "shift": source.shift}
    given = [key for key, vector in vectors.items() if vector is not None]
    if len(given) not in (0, 3):
        raise ValueError(f"{op}: {name} must have all of mean, scale and shift or none, got only {', '.join(given)}.")
    channels, dtype = source.x.shape[1], torch.float64 if source.x.dtype == torch.float64 else torch.float32
    for key, vector in vectors.items():
        if vector is None:
            continue
        if vector.dim() != 1 or vector.shape[0] != channels:
            raise ValueError(f"{op}: {name}.{key} must be [{channels}], one a channel, got {tuple(vector.shape)}.")
        if vector.dtype != dtype or vector.device != source.x.device:
            raise TypeError(
                f"{op}: {name}.{key} must be {dtype} on {source.x.device}, got {vector.dtype} on {vector.device}."
            )
