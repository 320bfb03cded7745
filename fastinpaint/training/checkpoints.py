"""Atomic checkpoints.

A checkpoint is a folder ``step-00000300/`` with ``weights.safetensors`` (see `save_weights`),
``optimizer.safetensors`` and ``state.json``. It is written as ``.step-00000300.partial/``, flushed to disk and renamed.
A killed process therefore leaves all earlier checkpoints intact, and at most a partial folder that is never read.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fastinpaint.errors import UserError
from fastinpaint.files import flush, parse_json, read_text, replacing
from fastinpaint.models import TwoDCN, VideoCompletionNet
from fastinpaint.models.weights import save_weights

WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
AVERAGED = "averaged.safetensors"
NAME = re.compile(r"step-(\d{8,10})")


def save_checkpoint(
    folder: Path,
    step: int,
    model: VideoCompletionNet | TwoDCN,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    facts: dict[str, Any],
    keep: int,
    averaged: VideoCompletionNet | TwoDCN | None = None,
) -> Path:
    """Write the checkpoint after ``step`` steps and delete all but the newest ``keep``.

    Args:
        state: JSON state that the run needs to resume.
        facts: extra metadata of the weights file.
        averaged: the network of averaged weights, if the run keeps one, stored as ``averaged.safetensors``.

    Raises:
        UserError: the disk is full or not writable. Earlier checkpoints are untouched.
    """
    path = folder / f"step-{step:08d}"
    if path.exists():
        return path
    partial = folder / f".{path.name}.partial"
    with as_user_error(path):
        try:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            save_weights(partial / WEIGHTS, model, facts)
            if averaged is not None:
                save_weights(partial / AVERAGED, averaged, facts)
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


def load_checkpoint(
    path: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    mappings: tuple[str, ...] = (),
    averaged: nn.Module | None = None,
) -> dict[str, Any]:
    """Load the checkpoint's weights and moments into ``model`` and ``optimizer``; returns its state.

    Args:
        mappings: keys of the state that must exist and hold mappings.
        averaged: what the averaged weights go into, if the run keeps them.

    Raises:
        UserError: a part is missing, damaged or from another run.
    """
    try:
        weights, moments = _tensors(path / WEIGHTS), _tensors(path / OPTIMIZER)
        model.load_state_dict(weights)
        if averaged is not None:
            averaged.load_state_dict(_tensors(path / AVERAGED))
        _restore_optimizer(moments, model, optimizer)
        state = parse_json(read_text(path / STATE))
        if not isinstance(state, dict) or state.get("step") != step_of(path):
            raise ValueError(f"{STATE} does not state the step of its folder")
        for name in mappings:
            if not isinstance(state.get(name), dict):
                raise ValueError(f"{STATE} has no good {name!r}")
    except (OSError, SafetensorError, RuntimeError, ValueError, KeyError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".:")
        raise UserError(f"{path}: not a checkpoint of this run: {reason}.") from None
    return state


def _tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ValueError unless all are finite."""
    if not path.is_file():
        raise ValueError(f"{path.name} is missing")
    tensors = load_file(path)
    bad = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if bad is not None:
        raise ValueError(f"{path.name} is damaged, {bad} is not finite")
    return tensors


def step_of(checkpoint: Path) -> int:
    """The number of steps in a checkpoint's name."""
    found = NAME.fullmatch(checkpoint.name)
    assert found is not None, checkpoint
    return int(found[1])


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints in ``folder``, oldest first."""
    return sorted((path for path in folder.glob("step-*") if NAME.fullmatch(path.name)), key=step_of)


def clear_partial(folder: Path) -> None:
    """Remove partly written or partly removed checkpoints of a killed process."""
    for leftover in folder.glob(".step-*"):
        remove(leftover)


def remove(path: Path) -> None:
    """Remove a file or a folder."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Replace ``path`` atomically by what ``write`` writes."""
    with as_user_error(path), replacing(path, durable=True) as beside:
        write(beside)


@contextmanager
def as_user_error(path: Path) -> Iterator[None]:
    """Turn a failed write into a one-sentence `UserError`, so that the user can free disk space and resume."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path}: not written: {error.strerror}; what was saved before is intact.") from None


def _optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """``{"combcn.conv1.weight:exp_avg": ...}``: every optimiser tensor by its parameter's name."""
    names: dict[Tensor, str] = {parameter: name for name, parameter in model.named_parameters()}
    return {
        f"{names[parameter]}:{key}": value.contiguous()
        for parameter, kept in optimizer.state.items()
        for key, value in kept.items()
    }


def _restore_optimizer(tensors: dict[str, Tensor], model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    indices = {name: index for index, (name, _) in enumerate(model.named_parameters())}
    state: dict[int, dict[str, Tensor]] = {}
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name, value in tensors.items():
        parameter, _, key = name.rpartition(":")
        if parameter not in indices or value.shape not in (shapes[parameter], ()):
            raise ValueError(f"{OPTIMIZER} does not fit the network at {name}")
        state.setdefault(indices[parameter], {})[key] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _remove(path: Path) -> None:
    """Remove a folder. It is renamed first, so that a partly removed folder is not mistaken for a checkpoint."""
    doomed = path.with_name(f".{path.name}.removed")
    os.rename(path, doomed)
    shutil.rmtree(doomed)
