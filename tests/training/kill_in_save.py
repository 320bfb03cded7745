"""Run by test_killed.py: ``python kill_in_save.py DATA FOLDER``.

Repeats a short run. Each time it is killed by SIGKILL at the next file operation of one save, resumed, and compared bit
by bit with an uninterrupted run. Prints the number of file operations. Trainings run in forks, so that torch is
imported once.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
import torch._dynamo  # the optimiser imports it when it is made, which would be in every fork
from safetensors.torch import load_file

from fastinpaint.models import ModelConfig
from fastinpaint.training import TrainConfig, train, trainer

CONFIG = TrainConfig(
    model=ModelConfig(width=1 / 16), pretrain_steps=1, steps=2, save_every=1, keep=1, validate_every=0, log_every=1
)
SAVE_OF_STEP = 2
FILE_OPERATIONS = {"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.copyfile", "shutil.rmtree"}


def kill_at(point: int) -> None:
    """Kill this process before file operation number ``point`` of the save."""
    plain, seen, armed = trainer.Trainer._save, 0, False

    def count(event: str, args: object) -> None:
        nonlocal seen
        if armed and event in FILE_OPERATIONS:
            if seen == point:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1

    def save(self: trainer.Trainer) -> None:
        nonlocal armed
        armed = self.done == SAVE_OF_STEP
        plain(self)
        armed = False

    sys.addaudithook(count)
    trainer.Trainer._save = save  # type: ignore[method-assign]


def in_fork(data: Path, run: Path, resume: bool, point: int | None = None) -> int:
    """Train in a child process; returns its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        try:
            if point is not None:
                kill_at(point)
            train(CONFIG, data, run, resume)
        except BaseException as error:
            print(f"{run.name}: {error!r}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main(data: Path, folder: Path) -> int:
    torch.set_num_threads(1)
    trainer.plot_curves = lambda logs, out: None  # type: ignore[assignment]
    if in_fork(data, folder / "unbroken", resume=False):
        return 1
    expected = load_file(folder / "unbroken/last.safetensors")
    point = 0
    while (code := in_fork(data, folder / f"killed{point}", resume=False, point=point)) == -signal.SIGKILL:
        run = folder / f"killed{point}"
        if in_fork(data, run, resume=True):
            return 1
        found = load_file(run / "last.safetensors")
        if found.keys() != expected.keys() or not all(torch.equal(found[name], expected[name]) for name in found):
            print(f"killed at point {point}, the resumed run ended with other bits", file=sys.stderr)
            return 1
        left = sorted(path.name for path in [*run.iterdir(), *(run / "checkpoints").iterdir()])
        if left != ["checkpoints", "config.yaml", "last.safetensors", "log.jsonl", "step-00000003"]:
            print(f"killed at point {point}, these are left: {left}", file=sys.stderr)
            return 1
        point += 1
    print(point)
    return code


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
