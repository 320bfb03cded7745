"""How a video is completed: windows in time, windows in space, device and precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fastinpaint.errors import UserError

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
        device: a torch device; "auto" is CUDA where there is one, else the CPU.
        dtype: "fp32", or "bf16" or "fp16" for autocast.

    Raises:
        UserError: a value that cannot be.
    """

    frames: int = 32
    overlap: int | None = None
    size: int = 128
    full_frame: bool = False
    feather: int = 0
    device: str = "auto"
    dtype: str = "fp32"

    def __post_init__(self) -> None:
        for name, least in (("frames", 1), ("size", 8), ("feather", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        if self.overlap is not None and not 0 <= self.overlap < self.frames:
            raise UserError(f"overlap must be from 0 to frames - 1 = {self.frames - 1}, got {self.overlap}.")
        if self.dtype not in DTYPES:
            raise UserError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}.")
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
            torch.zeros((), device=device).item()  # which the meta device has none of
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).splitlines()[0].rstrip(".")
            raise UserError(f"device {self.device!r} cannot be used here: {reason}.") from None
        return device
