"""Builds the wheel and tests it in new virtual environments, one per torch version: ``make wheel-check``.

    python -m tests.wheel_check [--torch 2.11.0 2.13.0] [--wheel dist/....whl] [--python an/environment/bin/python ...]

The wheel must hold the CUDA kernels where nvcc is found and FASTINPAINT_CUDA is not 0. ``--python`` takes environments
that have torch and the other dependencies already, and installs the wheel there. Without a CPU index for pip, torch
takes gigabytes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import venv
import zipfile
from pathlib import Path

from tools.inspect import sass

ROOT = Path(__file__).parents[1]
# In a process without torch: what the library asks the loader for is its own.
LOAD = """
import ctypes, importlib.util, pathlib, sys

package = pathlib.Path(importlib.util.find_spec("fastinpaint").origin).parent
library = ctypes.CDLL(str(package / "libfastinpaint_cuda.so"))
assert library.fi_conv_sizeof() > 0
mapped = {line.split()[-1] for line in open("/proc/self/maps") if ".so" in line}
foreign = [name for name in mapped if "cudart" in name or name.startswith("/usr/local")]
assert not foreign, f"the CUDA library needs {foreign}"
"""
PROGRAM = """
import sys, torch, fastinpaint
from fastinpaint.ops.dispatch import native, registry
from fastinpaint.models import ModelConfig, VideoCompletionNet

assert fastinpaint.__file__.startswith(sys.prefix), fastinpaint.__file__
assert native.why_not("cpu") is None, native.why_not("cpu")
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


def wants_cuda() -> bool:
    """Whether a wheel built here holds the CUDA kernels."""
    return sass.nvcc() is not None and os.environ.get("FASTINPAINT_CUDA") != "0"


def build(folder: Path) -> Path:
    """One wheel of this checkout."""
    subprocess.run(
        [sys.executable, "setup.py", "--quiet", "bdist_wheel", "--dist-dir", str(folder)], cwd=ROOT, check=True
    )
    (wheel,) = folder.glob("*.whl")
    return wheel


def inspect(wheel: Path, cuda: bool) -> None:
    """Its tag, and that it holds both libraries and nothing but the package."""
    tag = f"-py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}.whl"
    if not wheel.name.endswith(tag):
        raise SystemExit(f"wheel-check: the wheel's name must end with {tag}, got {wheel.name}.")
    with zipfile.ZipFile(wheel) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    wanted = {f"fastinpaint/libfastinpaint_{name}.so" for name in (("cpu", "cuda") if cuda else ("cpu",))}
    libraries = {name for name in sizes if name.endswith(".so")}
    if libraries != wanted:
        raise SystemExit(f"wheel-check: the wheel must hold {sorted(wanted)}, got {sorted(libraries)}.")
    if strays := [name for name in sizes if not name.startswith(("fastinpaint/", "fastinpaint-"))]:
        raise SystemExit(f"wheel-check: the wheel must hold nothing but the package, got {strays[:5]}.")
    kernels = ", ".join(f"{Path(name).name} {sizes[name] / 1e6:.1f} MB" for name in sorted(libraries))
    print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB; {kernels}")


def environment(folder: Path, torch: str) -> Path:
    """The interpreter of a fresh environment with that torch."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"torch=={torch}"], check=True)
    return python


def check(python: Path, wheel: Path, folder: Path, fresh: bool, cuda: bool) -> None:
    """Install the wheel; away from the sources train a step on the CPU kernels, load the CUDA kernels, run `info`."""
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    replace = [] if fresh else ["--no-deps", "--force-reinstall"]
    subprocess.run([python, "-m", "pip", "install", "--quiet", *replace, wheel], check=True, env=outside)
    subprocess.run([python, "-c", PROGRAM], cwd=folder, check=True, env=outside)
    if cuda:
        subprocess.run([python, "-c", LOAD], cwd=folder, check=True, env=outside)
    command = subprocess.run(
        [python.parent / "fastinpaint", "info"], cwd=folder, check=True, capture_output=True, text=True, env=outside
    )
    said = [line.strip() for line in command.stdout.splitlines() if " kernels: " in line]
    print("\n".join(said))
    for name in ("cpu", "cuda"):
        answer = "yes" if name == "cpu" or cuda else "no"
        if not any(line.startswith(f"{name} kernels: {answer}") for line in said):
            raise SystemExit(f"wheel-check: fastinpaint info must say `{name} kernels: {answer}`, got {said}.")


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
        cuda = wants_cuda()
        inspect(wheel, cuda)
        for python in arguments.python:
            check(python.absolute(), wheel, folder, fresh=False, cuda=cuda)
        for torch in [] if arguments.python else arguments.torch:
            check(environment(folder / torch, torch), wheel, folder, fresh=True, cuda=cuda)


if __name__ == "__main__":
    main()
