"""Checkpoints that are there as a whole or not at all.

A checkpoint is a folder ``step-00000300/`` with ``weights.safetensors`` (as by `save_weights`),
``optimizer.safetensors`` and ``state.json``. It is written as ``.step-00000300.partial/``, flushed to the disk and
renamed: a process killed at any point leaves the folders before it whole, and a partial one that nobody reads.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fastinpaint.atomic import flush, replacing
from fastinpaint.errors import UserError
from fastinpaint.models import TwoDCN, VideoCompletionNet
from fastinpaint.models.weights import save_weights

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"


def save_checkpoint(
    folder: Path,
    step: int,
    model: VideoCompletionNet | TwoDCN,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    facts: dict[str, Any],
    keep: int,
) -> Path:
    """Write the checkpoint of ``step`` (that many steps are done) and drop all but the newest ``keep``.

    Args:
        state: whatever else the run needs to go on, as JSON.
        facts: what the weights' file says about itself.

    Raises:
        UserError: the disk is full, or not to be written to; what was there before is untouched.
    """
    path = folder / f"step-{step:08d}"
    if path.exists():
        return path
    partial = folder / f".{path.name}.partial"
    with saying_what_failed(path):
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            save_weights(partial / WEIGHTS, model, facts)
            (partial / OPTIMIZER).write_bytes(save(_optimizer_tensors(model, optimizer)))
            (partial / STATE).write_text(json.dumps({"step": step, **state}, indent=1))
            for file in partial.iterdir():
                flush(file)
            os.rename(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        flush(folder)
    for old in checkpoints(folder)[:-keep]:
        _remove(old)
    return path


def load_checkpoint(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Put the checkpoint's weights and moments into ``model`` and ``optimizer``; returns its state."""
    try:
        model.load_state_dict(load_file(path / WEIGHTS))
        _restore_optimizer(load_file(path / OPTIMIZER), model, optimizer)
        return json.loads((path / STATE).read_text())
    except (OSError, SafetensorError, RuntimeError, json.JSONDecodeError) as error:
        raise UserError(f"{path}: not a checkpoint of this run: {str(error).splitlines()[0]}") from None


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in ``folder``, oldest first."""
    return sorted(folder.glob("step-*"))


def clear_partial(folder: Path) -> None:
    """Remove what a killed process left half written or half removed."""
    for leftover in folder.glob(".step-*"):
        shutil.rmtree(leftover)


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, then rename it over ``path``."""
    with saying_what_failed(path), replacing(path, durable=True) as beside:
        write(beside)


@contextmanager
def saying_what_failed(path: Path) -> Iterator[None]:
    """A failed write as one sentence for the user, who can free the disk and resume."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: not written: {error.strerror}; what was saved before is intact.") from None


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """``{"combcn.conv1.weight:exp_avg": ...}``: every tensor the optimiser keeps for a parameter, by its name."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}:{key}": value.contiguous()
        for parameter, kept in optimizer.state.items()
        for key, value in kept.items()
    }


def _restore_optimizer(tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    indices = {name: index for index, (name, _) in enumerate(model.named_parameters())}
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        parameter, key = name.rsplit(":", 1)
        state.setdefault(indices[parameter], {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _remove(path: Path) -> None:
    """Rename first, so that no half-removed folder passes for a checkpoint."""
    doomed = path.with_name(f".{path.name}.removed")
    os.rename(path, doomed)
    shutil.rmtree(doomed)
