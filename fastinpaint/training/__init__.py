"""The reference trainer: the paper's strategies in plain PyTorch."""

from fastinpaint.training.config import TrainConfig

__all__ = ["TrainConfig"]
