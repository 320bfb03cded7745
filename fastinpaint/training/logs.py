"""The output of a run: JSON lines in ``log.jsonl``, TensorBoard if asked, and a progress bar."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from fastinpaint.errors import UserError, shown
from fastinpaint.files import parse_json, read_text
from fastinpaint.training.checkpoints import as_user_error, replace_file

MOST_BYTES = 2**30  # five million lines of about 200 bytes
BAR = "{desc} {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, {rate_inv_fmt}{postfix}]"


class RunLog:
    """The log of one run, written by rank 0.

    Every line is a JSON object with ``event`` ("train" or "validation"), ``step`` (steps done), ``phase``, and the
    losses (``3dcn``, ``combcn``, ``2dcn``, ``total``) as mean errors in [0, 255]. Training lines are means over the
    steps since the previous one. They add ``seconds_per_step``, ``lr`` and ``peak_memory_mib`` (of the GPU's allocator,
    else of the process).
    """

    def __init__(self, out: Path, done: int, total: int, tensorboard: bool) -> None:
        self.path = out / "log.jsonl"
        _drop_after(self.path, done)
        self.file = self.path.open("a", encoding="utf-8")
        self.writer = None
        if tensorboard:
            self.writer = tensorboard_writer()(str(out / "tensorboard"), purge_step=done + 1)
        self.bar = tqdm(total=total, initial=done, unit="step", bar_format=BAR, disable=None, dynamic_ncols=True)

    def train(self, step: int, phase: str, losses: Mapping[str, float], seconds: float, lr: float) -> None:
        """Add a training line: losses in [0, 255] and seconds per step, as means since the previous line."""
        memory = round(peak_memory_mib(), 1)
        figures = {**losses, "seconds_per_step": round(seconds, 6), "lr": lr, "peak_memory_mib": memory}
        self._write("train", step, phase, figures)
        self.bar.set_description(phase)
        self.bar.set_postfix({name: f"{value:.2f}" for name, value in losses.items()}, refresh=False)

    def validation(self, step: int, phase: str, losses: Mapping[str, float], best: bool) -> None:
        """Add a validation line with losses in [0, 255], and print it."""
        self._write("validation", step, phase, losses)
        text = "  ".join(f"{name} {value:.3f}" for name, value in losses.items())
        tqdm.write(f"step {step} ({phase}): validation {text}{'  best so far' if best else ''}", file=sys.stdout)

    def progress(self, done: int) -> None:
        """Move the bar to the number of steps done."""
        self.bar.update(done - self.bar.n)

    def close(self) -> None:
        """Close the bar and the files."""
        self.bar.close()
        with suppress(OSError):  # a full disk was reported when the line was written
            self.file.close()
        if self.writer is not None:
            self.writer.close()

    def _write(self, event: str, step: int, phase: str, figures: Mapping[str, float]) -> None:
        with as_user_error(self.path):
            self.file.write(json.dumps({"event": event, "step": step, "phase": phase, **figures}) + "\n")
            self.file.flush()
        if self.writer is not None:
            for name, value in figures.items():
                self.writer.add_scalar(f"{event}/{name}", value, step)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a ``log.jsonl``. A last line that a killed process left unfinished is ignored.

    Raises:
        UserError: the file is unreadable, or a line is damaged (its number is given).
    """
    if not path.exists() and not path.is_symlink():
        return []
    lines = read_text(path, MOST_BYTES).splitlines(keepends=True)
    return [_record(path, number, line) for number, line in enumerate(lines, 1) if line.endswith("\n")]


def _record(path: Path, number: int, line: str) -> dict[str, Any]:
    """Parse one line and check the types of its fields."""
    try:
        record = parse_json(line)
    except ValueError:
        record = None
    if isinstance(record, dict):
        known = {name: record.pop(name, None) for name in ("event", "step", "phase")}
        numbers = all(type(value) in (int, float) for value in record.values())
        if numbers and [type(value) for value in known.values()] == [str, int, str]:
            return {**known, **record}
    raise UserError(f"{path}: line {number} is damaged: {shown(line.strip())}; repair or remove it.")


def peak_memory_mib() -> float:
    """Peak memory so far: of torch's CUDA allocator if in use, else of this process."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**20
    if os.name != "posix":
        return 0.0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def _drop_after(path: Path, done: int) -> None:
    """Drop the lines of steps that a resumed run will repeat."""
    if path.exists():
        kept = [line for line in read_log(path) if line["step"] <= done]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        replace_file(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def tensorboard_writer() -> Any:
    """TensorBoard's SummaryWriter class.

    Raises:
        UserError: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError("tensorboard: not installed; pip install tensorboard.") from None
    return SummaryWriter
