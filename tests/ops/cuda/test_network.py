"""3DCN and CombCN at an eighth of their width: one training step on the CUDA kernels has plain PyTorch's gradients."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import fastinpaint
from fastinpaint.models import ModelConfig, VideoCompletionNet
from fastinpaint.testing.rule import relative_error
from fastinpaint.training.losses import masked_l1


def gradients(model: nn.Module, video: Tensor, mask: Tensor) -> list[Tensor]:
    completed, coarse = model(video, mask)
    masked_l1(completed, video, mask).add(coarse.square().mean()).backward()
    return [p.grad.double().cpu() for p in model.parameters() if p.grad is not None]


def test_one_training_step(device: str) -> None:
    torch.manual_seed(0)
    plain = VideoCompletionNet(ModelConfig(width=0.125))
    video, mask = torch.rand(1, 3, 3, 16, 24), torch.zeros(1, 1, 3, 16, 24)
    mask[..., 4:10, 6:14] = 1
    fused = fastinpaint.accelerate(copy.deepcopy(plain), backend="cuda").to(device)
    assert not fused.fastinpaint_report.left
    exact = gradients(copy.deepcopy(plain).double(), video.double(), mask.double())
    stock = relative_error(gradients(plain, video, mask), exact)
    found = gradients(fused, video.to(device), mask.to(device))
    assert len(found) == len(exact)
    assert relative_error(found, exact) <= 3 * stock + 1e-5
