"""Filling the holes of videos with trained networks."""

from fastinpaint.inference.boxes import HoleBox, parse_box
from fastinpaint.inference.complete import complete, complete_stream
from fastinpaint.inference.encoder import Encoding
from fastinpaint.inference.files import Written, inpaint
from fastinpaint.inference.masks import MaskSettings
from fastinpaint.inference.settings import Settings

__all__ = [
    "Encoding",
    "HoleBox",
    "MaskSettings",
    "Settings",
    "Written",
    "complete",
    "complete_stream",
    "inpaint",
    "parse_box",
]
