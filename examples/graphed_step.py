"""A whole training step as one CUDA graph: captured once, then replayed without Python between its kernels.

    python examples/graphed_step.py

Small steps on a GPU wait for Python; a captured step does not. The optimiser needs `capturable=True`, and the step must
not read a value (`.item()`). Without a GPU the same step runs kernel by kernel. This example has not been run on a GPU
yet.
"""

import torch
from torch import Tensor, nn

import fastinpaint


def main(steps: int = 20) -> list[float]:
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, 10),
    ).to(device)  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, capturable=device.type == "cuda")

    def step(images: Tensor, labels: Tensor) -> Tensor:
        optimizer.zero_grad(set_to_none=True)
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.detach()

    graphed = fastinpaint.GraphedStep(step, device) if device.type == "cuda" else step
    images, labels = torch.randn(8, 3, 16, 16), torch.randint(10, (8,))
    losses = []
    for i in range(steps):
        loss = graphed(images, labels)
        losses.append(loss)
        if i % 5 == 0:
            print(f"step {i:3d}  loss {loss.item():.4f}")
    return [loss.item() for loss in losses]


if __name__ == "__main__":
    main()
