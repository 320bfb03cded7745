"""What weights were trained to see."""

from __future__ import annotations

from pathlib import Path

from fastinpaint.inference.settings import Settings
from fastinpaint.models.weights import weights_info


def seen_by(weights: Path) -> dict[str, int]:
    """The frames and the size of `Settings` that weights were trained at, where their file says so."""
    trained = weights_info(weights).extra
    return {name: trained.get(name, getattr(Settings, name)) for name in ("frames", "size")}
