"""The networks of Wang et al. (AAAI 2019) in plain PyTorch, their configuration and their weights files."""

from fastinpaint.models.combcn import CombCN, TwoDCN
from fastinpaint.models.completion import VideoCompletionNet, coarse_input, complete_frames, fill_pixel, predict_frames
from fastinpaint.models.config import ModelConfig
from fastinpaint.models.threedcn import ThreeDCN

__all__ = [
    "CombCN",
    "ModelConfig",
    "ThreeDCN",
    "TwoDCN",
    "VideoCompletionNet",
    "coarse_input",
    "complete_frames",
    "fill_pixel",
    "predict_frames",
]
