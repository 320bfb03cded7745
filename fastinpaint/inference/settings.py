"""How a video is completed: windows in time, windows in space, device and precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from fastinpaint.data.reader import VideoReader
from fastinpaint.errors import UserError, shown
from fastinpaint.memory import require
from fastinpaint.models import ModelConfig
from fastinpaint.models.sizes import require_completion
from fastinpaint.ranges import FRAMES, Number, whole

RANGES: dict[str, Number] = {
    "frames": FRAMES,
    "overlap": whole(0, 4095),
    "size": whole(8, 8192),
    "feather": whole(0, 8192),
    "adapt": whole(0, 86_400),
}
COPIES = 2  # of a window that are held at least: the source's frames and the completed ones
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Settings:
    """The choices of `complete` and `inpaint`.

    Args:
        frames: frames the network sees at once, F in the paper.
        overlap: frames that two neighbouring windows in time share and blend; None means a quarter of `frames`.
        size: side in pixels of the square the network was trained on. A hole is shown to it in a window of at least
            that size, and at least twice as wide as the hole, scaled down to `size`.
        full_frame: show the network the whole frame, unscaled, in place of windows.
        feather: pixels, counted from the hole's edge inwards, over which the source fades into the completion. The
            source shows there, so draw the mask that much larger than what must go. 0 switches at the edge.
        adapt: seconds on two cores to adapt the fill to the video first (`Adaptation`); 0: not at all.
        device: a torch device; "auto" is CUDA where there is one, else the CPU.
        dtype: "fp32", or "bf16" or "fp16" for autocast.

    Raises:
        UserError: a value out of its range.
    """

    frames: int = 32
    overlap: int | None = None
    size: int = 128
    full_frame: bool = False
    feather: int = 0
    adapt: int = 0
    device: str = "auto"
    dtype: str = "fp32"

    def __post_init__(self) -> None:
        for name, range in RANGES.items():
            if name != "overlap" or self.overlap is not None:
                object.__setattr__(self, name, range.checked(name, getattr(self, name)))
        if self.overlap is not None and self.overlap >= self.frames:
            raise UserError(f"overlap must be from 0 to frames - 1 = {self.frames - 1}, got {self.overlap}.")
        if self.dtype not in DTYPES:
            raise UserError(f"dtype must be one of {', '.join(DTYPES)}, got {shown(self.dtype)}.")
        self.torch_device()

    @property
    def stride(self) -> int:
        """Frames from the start of one window to the start of the next."""
        return self.frames - (self.frames // 4 if self.overlap is None else self.overlap)

    def torch_device(self) -> torch.device:
        """The device to run on."""
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        try:
            device = torch.device(self.device)
            if device.type == "cpu" and device.index:
                raise ValueError("there is one CPU, cpu")
            torch.zeros((), device=device).item()  # the meta device has no memory
        except (RuntimeError, AssertionError, NotImplementedError, ImportError, ValueError, TypeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise UserError(f"device {shown(self.device)} cannot be used here: {reason}.") from None
        return device


def require_window(model: nn.Module | None, settings: Settings, reader: VideoReader) -> None:
    """Refuse windows of frames that cannot fit, before any is decoded.

    Raises:
        UserError: the frames held at once, or the network on them, need more memory than there is; says both amounts.
    """
    frames = min(settings.frames, reader.length_hint or settings.frames)
    size = f"{reader.width}x{reader.height}"
    require(f"a window of {frames} frames of {size}", COPIES * 3 * frames * reader.width * reader.height)
    config = getattr(model, "config", None)
    if isinstance(config, ModelConfig):
        height, width = (reader.height, reader.width) if settings.full_frame else (settings.size, settings.size)
        require_completion("inpaint", config, frames, height, width, settings.torch_device())
