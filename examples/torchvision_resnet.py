"""Trains a torchvision network for a few steps with `accelerate`, then restores plain PyTorch for saving.

python examples/torchvision_resnet.py
"""

import torch
import torchvision
from torch import nn

import fastinpaint


def main(size: int = 64, steps: int = 3) -> float:
    torch.manual_seed(0)
    model = fastinpaint.accelerate(torchvision.models.resnet18(num_classes=10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images, labels = torch.randn(4, 3, size, size), torch.randint(10, (4,))
    for _ in range(steps):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    print(model.fastinpaint_report)

    model.eval()
    accelerated = model(images)
    plain = torchvision.models.resnet18(num_classes=10).eval()
    plain.load_state_dict(model.state_dict())  # checkpoints go both ways
    difference = (plain(images) - accelerated).abs().max().item()
    print(f"loss {loss.item():.4f}; largest difference to the plain network in eval mode: {difference:.1e}")
    return difference


if __name__ == "__main__":
    main()
