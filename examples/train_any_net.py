"""A plain training loop, made faster and smaller by one line.

    python examples/train_any_net.py

The network, the loss and the optimiser are plain PyTorch. Only the line with `accelerate` is new. The losses equal
those of plain PyTorch up to rounding.
"""

import torch
from torch import nn

import fastinpaint


def block(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    """Convolution, batch norm, ReLU."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(inplace=True),
    )


def main(steps: int = 20) -> list[float]:
    torch.manual_seed(0)
    model = nn.Sequential(
        block(3, 32), block(32, 64, stride=2), block(64, 64), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)
    )
    model = fastinpaint.accelerate(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    images, labels = torch.randn(8, 3, 32, 32), torch.randint(10, (8,))
    losses = []
    for step in range(steps):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 5 == 0:
            print(f"step {step:3d}  loss {losses[-1]:.4f}")
    print(model.fastinpaint_report)
    return losses


if __name__ == "__main__":
    main()
