"""Weights on disk: one safetensors file whose metadata holds the model's kind and config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from fastinpaint.errors import UserError, shown
from fastinpaint.files import parse_json, replacing
from fastinpaint.models.combcn import TwoDCN
from fastinpaint.models.completion import VideoCompletionNet
from fastinpaint.models.config import ModelConfig

VERSION = 1
"""Version of the metadata. A file without one is of version 1."""

KINDS: dict[str, type[VideoCompletionNet] | type[TwoDCN]] = {"completion": VideoCompletionNet, "twodcn": TwoDCN}


class WeightsInfo(NamedTuple):
    """A weights file's metadata: the kind (a key of `KINDS`), the config, and the writer's extra facts."""

    kind: str
    config: ModelConfig
    extra: dict[str, Any]


def save_weights(path: str | Path, model: VideoCompletionNet | TwoDCN, extra: dict[str, Any] | None = None) -> None:
    """Write a model's parameters and buffers atomically.

    Args:
        extra: JSON facts, for instance the step and the validation loss.

    Raises:
        UserError: the file cannot be written (no such folder, full disk).
        TypeError: the model is not one of `KINDS`.
    """
    kind = next((name for name, known in KINDS.items() if isinstance(model, known)), None)
    if kind is None:
        raise TypeError(f"save_weights: model must be one of {', '.join(KINDS)}, got {type(model).__name__}.")
    metadata = {
        "version": str(VERSION),
        "kind": kind,
        "config": json.dumps(model.config.to_dict()),
        "extra": json.dumps(extra or {}),
    }
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in model.state_dict().items()}
    try:
        with replacing(Path(path)) as beside:
            beside.write_bytes(save(tensors, metadata))  # save_file makes it unreadable to other users
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot write weights to {path}: {error}.") from error


def load_weights(path: str | Path, kind: str | None = None) -> VideoCompletionNet | TwoDCN:
    """Load the model of a weights file, on the CPU and in eval mode.

    Args:
        kind: the required kind ("completion" or "twodcn"); None accepts either.

    Raises:
        UserError: the file is missing, damaged, foreign, of another kind, or does not fit its own config.
    """
    info = weights_info(path)
    if kind is not None and info.kind != kind:
        raise UserError(f"{path}: needed weights of kind {kind}, got {info.kind}.")
    with torch.device("meta"):  # compares shapes before memory is allocated, however large the config
        model = KINDS[info.kind](info.config)
    try:
        with safe_open(path, "pt") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
            _check_shapes(path, model, found)
            tensors = {name: file.get_tensor(name) for name in found}
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise UserError(f"{path}: damaged: {shown(str(error))}.") from None
    bad = next((name for name, tensor in tensors.items() if not tensor.isfinite().all()), None)
    if bad is not None:
        raise UserError(f"{path}: damaged: {bad} holds values that are not finite.")
    model = model.to_empty(device="cpu")
    model.load_state_dict(tensors)
    return model.eval()


def _check_shapes(path: str | Path, model: nn.Module, found: dict[str, tuple[int, ...]]) -> None:
    """Check that the file's tensors are those of the model that its config describes."""
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wrong = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{path}: the weights do not fit their config: {name} should be {expected.get(name, 'absent')}, "
            f"is {found.get(name, 'absent')}."
        )


def weights_info(path: str | Path) -> WeightsInfo:
    """Read the metadata of a weights file without its tensors. Raises as `load_weights`."""
    if not Path(path).is_file():
        there = "a weights file is needed, this is none" if Path(path).exists() else "no such weights file"
        raise UserError(f"{path}: {there}.")
    try:
        with open(path, "rb"):  # safetensors reports an unreadable file as absent
            pass
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
    except PermissionError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}.") from error
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error}).") from error
    version = metadata.get("version", str(VERSION))
    if version != str(VERSION):
        raise UserError(f"{path}: weights of version {shown(version)}; this fastinpaint reads version {VERSION}.")
    if metadata.get("kind") not in KINDS:
        known = " or ".join(KINDS)
        raise UserError(f"{path}: expected weights of kind {known}, got kind {shown(metadata.get('kind'))}.")
    try:
        config = ModelConfig.from_dict(parse_json(metadata["config"]))
        extra = parse_json(metadata.get("extra", "{}"))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: the config in the weights' metadata cannot be read ({error}).") from error
    if not isinstance(extra, dict):
        raise UserError(f"{path}: the facts in the weights' metadata must be a mapping, got {shown(extra)}.")
    return WeightsInfo(metadata["kind"], config, extra)
