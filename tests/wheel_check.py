"""Builds the wheel and tries it in fresh virtual environments, one for each torch: ``make wheel-check``.

    python -m tests.wheel_check [--torch 2.11.0 2.13.0] [--wheel dist/....whl] [--python an/environment/bin/python ...]

``--python`` takes environments that have torch and the other dependencies already, and installs the wheel there. pip
fetches torch from where it is told to look: without a CPU index it takes gigabytes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROGRAM = """
import sys, torch, fastinpaint
from fastinpaint import _native, backends
from fastinpaint.models import ModelConfig, VideoCompletionNet

assert fastinpaint.__file__.startswith(sys.prefix), fastinpaint.__file__
assert _native.why_not("cpu") is None, _native.why_not("cpu")
torch.manual_seed(0)
video, mask = torch.rand(1, 3, 4, 16, 16), torch.zeros(1, 1, 4, 16, 16)
mask[..., 4:10, 4:10] = 1

def gradients(model):
    completed, coarse = model(video.to(model.mean_pixel), mask.to(model.mean_pixel))
    (completed.square().mean() + coarse.square().mean()).backward()
    return torch.cat([p.grad.double().flatten() for p in model.parameters()])

plain = VideoCompletionNet(ModelConfig(width=0.125))
exact = VideoCompletionNet(ModelConfig(width=0.125)).double()
exact.load_state_dict(plain.state_dict())
fused = VideoCompletionNet(ModelConfig(width=0.125))
fused.load_state_dict(plain.state_dict())
fused = fastinpaint.accelerate(fused, backend="cpu")
assert not fused.fastinpaint_report.left
exact, plain, fused = map(gradients, (exact, plain, fused))
ours, theirs = ((g - exact).norm() / exact.norm() for g in (fused, plain))
assert ours <= 2 * theirs + 1e-6, (ours, theirs)
print(f"torch {torch.__version__}: gradients within {ours:.1e} of float64, plain PyTorch's within {theirs:.1e}")
"""


def build(folder: Path) -> Path:
    """One wheel, its tag py3-none."""
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "bdist_wheel", "--dist-dir", str(folder)], cwd=ROOT, check=True
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def environment(folder: Path, torch: str) -> Path:
    """The interpreter of a fresh environment with that torch."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"torch=={torch}"], check=True)
    return python


def check(python: Path, wheel: Path, folder: Path, fresh: bool) -> None:
    """Install the wheel, train a step on its CPU kernels and run its command, away from the sources."""
    replace = [] if fresh else ["--no-deps", "--force-reinstall"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *replace, wheel], check=True)
    subprocess.run([python, "-c", PROGRAM], cwd=folder, check=True)
    command = subprocess.run(
        [python.parent / "fastinpaint", "info"], cwd=folder, check=True, capture_output=True, text=True
    )
    print("\n".join(line for line in command.stdout.splitlines() if " kernels: " in line))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", nargs="*", default=["2.11.0", "2.13.0"])
    parser.add_argument("--python", nargs="*", type=Path, default=[])
    parser.add_argument("--wheel", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        wheel = (arguments.wheel or build(folder)).resolve()
        if "-py3-none-" not in wheel.name:
            raise SystemExit(f"wheel-check: the wheel must be tagged py3-none, got {wheel.name}.")
        print(wheel.name)
        for python in arguments.python:
            check(python.absolute(), wheel, folder, fresh=False)
        for torch in [] if arguments.python else arguments.torch:
            check(environment(folder / torch, torch), wheel, folder, fresh=True)


if __name__ == "__main__":
    main()
