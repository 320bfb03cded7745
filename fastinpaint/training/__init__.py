"""The reference trainer: the paper's training strategies in plain PyTorch."""

from fastinpaint.training.config import TrainConfig
from fastinpaint.training.trainer import train

__all__ = ["TrainConfig", "train"]
