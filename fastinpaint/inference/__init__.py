"""Filling the holes of videos with trained networks."""

from fastinpaint.inference.complete import complete, complete_stream
from fastinpaint.inference.encoder import Encoding
from fastinpaint.inference.files import Written, inpaint
from fastinpaint.inference.settings import Settings

__all__ = ["Encoding", "Settings", "Written", "complete", "complete_stream", "inpaint"]
