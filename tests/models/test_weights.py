"""Weights on disk: a round trip, and a one-sentence error for every kind of bad file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fastinpaint import UserError
from fastinpaint.models import ModelConfig, TwoDCN, VideoCompletionNet, weights
from fastinpaint.models.weights import load_weights, save_weights, weights_info

CONFIG = ModelConfig(width=0.0625, r=4, skips="add")


@pytest.mark.parametrize(("kind", "cls"), [("completion", VideoCompletionNet), ("twodcn", TwoDCN)])
def test_round_trip(tmp_path: Path, kind: str, cls: type) -> None:
    model, path = cls(CONFIG), tmp_path / "w.safetensors"
    model.mean_pixel.copy_(torch.tensor([0.1, 0.2, 0.3]))
    save_weights(path, model, {"step": 7})
    loaded = load_weights(path, kind)
    assert type(loaded) is cls
    assert loaded.config == CONFIG
    assert not loaded.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert weights_info(path) == (kind, CONFIG, {"step": 7})
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]


def saved(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """A good file's tensors and metadata, to be damaged by tests."""
    save_weights(path, TwoDCN(CONFIG))
    return load_file(path), {"kind": "twodcn", "config": '{"width": 0.0625, "r": 4, "skips": "add"}'}


def missing(path: Path) -> None:
    assert not path.exists()


def folder(path: Path) -> None:
    path.mkdir()


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(b"PK\x03\x04 a pickle perhaps" * 9)


def truncated(path: Path) -> None:
    saved(path)
    path.write_bytes(path.read_bytes()[:-100])


def header_cut(path: Path) -> None:
    saved(path)
    path.write_bytes(path.read_bytes()[:50])


def foreign(path: Path) -> None:
    save_file({"a": torch.zeros(1)}, path)


def unknown_kind(path: Path) -> None:
    tensors, metadata = saved(path)
    save_file(tensors, path, metadata | {"kind": "gan"})


def unknown_option(path: Path) -> None:
    tensors, metadata = saved(path)
    save_file(tensors, path, metadata | {"config": '{"depth": 3}'})


def broken_config(path: Path) -> None:
    tensors, metadata = saved(path)
    save_file(tensors, path, metadata | {"config": "[1, 2]"})


def other_width(path: Path) -> None:
    tensors, metadata = saved(path)
    save_file(tensors, path, metadata | {"config": '{"width": 0.125, "r": 4, "skips": "add"}'})


def missing_tensor(path: Path) -> None:
    tensors, metadata = saved(path)
    del tensors["layers.3.conv.weight"]
    save_file(tensors, path, metadata)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (missing, ("no such weights file",)),
        (folder, ("a weights file is needed",)),
        (empty, ("not a readable safetensors file",)),
        (garbage, ("not a readable safetensors file",)),
        (truncated, ("not a readable safetensors file",)),
        (header_cut, ("not a readable safetensors file",)),
        (foreign, ("expected weights of kind completion or twodcn", "None")),
        (unknown_kind, ("'gan'",)),
        (unknown_option, ("unknown option 'depth'", "known")),
        (broken_config, ("config",)),
        (other_width, ("layers.1.conv.weight", "(8, 4, 5, 5)", "(4, 4, 5, 5)")),
        (missing_tensor, ("layers.3.conv.weight", "absent")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_bad_files_are_one_sentence(tmp_path: Path, spoil, words: tuple[str, ...]) -> None:
    path = tmp_path / "w.safetensors"
    spoil(path)
    with pytest.raises(UserError) as caught:
        load_weights(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "w").touch()
    monkeypatch.setattr(weights, "open", refuse, raising=False)
    with pytest.raises(UserError, match="w: cannot be read: Permission denied"):
        load_weights(tmp_path / "w")


def test_wrong_kind_names_both(tmp_path: Path) -> None:
    save_weights(tmp_path / "w.safetensors", TwoDCN(CONFIG))
    with pytest.raises(UserError, match="needed weights of kind completion, got twodcn"):
        load_weights(tmp_path / "w.safetensors", "completion")


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "w.safetensors"
    save_weights(path, TwoDCN(CONFIG), {"step": 1})

    def full(file: Path, content: bytes) -> None:
        file.write_text("half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left on device"):
        save_weights(path, TwoDCN(CONFIG), {"step": 2})
    assert [file.name for file in tmp_path.iterdir()] == ["w.safetensors"]
    assert weights_info(path).extra == {"step": 1}


def test_saving_where_nothing_can_be_saved(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot write weights"):
        save_weights(tmp_path / "no" / "folder" / "w.safetensors", TwoDCN(CONFIG))
    with pytest.raises(TypeError, match="Linear"):
        save_weights(tmp_path / "w.safetensors", torch.nn.Linear(1, 1))  # type: ignore[arg-type]
