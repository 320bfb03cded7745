"""`VideoSamples`: its samples, and its errors about folders that it cannot read."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from fastinpaint.data.dataset import VideoSamples
from fastinpaint.data.prepare import PrepareConfig, prepare
from fastinpaint.data.synthetic import synthetic_clip
from fastinpaint.errors import UserError

Clip = Callable[..., Path]


@pytest.fixture
def data(clip: Clip, tmp_path: Path) -> Path:
    """Three clips of 3, 2 and 2 samples of 4 frames."""
    sources = [clip(f"clip{i}", video=synthetic_clip(i, n, 32)) for i, n in enumerate([12, 8, 9])]
    prepare(PrepareConfig(frames=4, size=32), sources, tmp_path / "data")
    return tmp_path / "data"


def test_samples(data: Path) -> None:
    train, val = VideoSamples(data, "train"), VideoSamples(data, "val")
    assert len(train) + len(val) == 7
    assert len(val) == 2
    assert (train.frames, train.size) == (4, 32)
    everything = {sample.tobytes() for sample in [*train, *val]}
    clips = [synthetic_clip(i, n, 32) for i, n in enumerate([12, 8, 9])]
    assert everything == {clip[s : s + 4].tobytes() for clip in clips for s in range(0, len(clip) - 3, 4)}


def test_indexing_is_that_of_a_sequence(data: Path) -> None:
    train = VideoSamples(data)
    assert np.array_equal(train[-1], train[len(train) - 1])
    assert len(train[1:3]) == 2
    assert np.array_equal(train[1:3][0], train[1])
    with pytest.raises(IndexError):
        train[len(train)]


def test_a_sample_is_a_writable_copy(data: Path) -> None:
    train = VideoSamples(data)
    sample = train[0]
    sample[:] = 7
    assert not np.array_equal(train[0], sample)
    assert torch.from_numpy(train[0]).shape == (4, 32, 32, 3)


def test_pickling_carries_no_pixels(data: Path) -> None:
    train = VideoSamples(data)
    expected = train[0]
    packed = pickle.dumps(train)
    assert len(packed) < expected.nbytes / 4
    assert np.array_equal(pickle.loads(packed)[0], expected)


def test_loader_worker(data: Path) -> None:
    train = VideoSamples(data)
    assert train[0].any()  # opens a map before the worker starts
    loaded = list(DataLoader(train, batch_size=None, num_workers=1))  # type: ignore[arg-type]
    assert all(np.array_equal(a, b) for a, b in zip(loaded, train, strict=True))


def test_unknown_split(data: Path) -> None:
    with pytest.raises(UserError, match=r"split must be one of train, val; got 'test'\.$"):
        VideoSamples(data, "test")


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none: no such folder; `fastinpaint prepare"):
        VideoSamples(tmp_path / "none")


def test_foreign_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"must hold an index\.json by `fastinpaint prepare`; it holds none\.$"):
        VideoSamples(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"index\.json: damaged: it is not JSON\.$"),
        ("[1]", r"index\.json: not written by `fastinpaint prepare`\.$"),
        ('{"frames": 4}', r"index\.json: not written by `fastinpaint prepare`\.$"),
        ('{"format": "fastinpaint samples", "version": 9}', r"version 1 .* is needed, this is version 9; prepare"),
        ('{"format": "fastinpaint samples", "version": 1}', r"index\.json: damaged: KeyError 'frames'\.$"),
    ],
    ids=["not json", "a list", "another program's", "a later version", "a key is missing"],
)
def test_damaged_index(data: Path, text: str, message: str) -> None:
    (data / "index.json").write_text(text)
    with pytest.raises(UserError, match=message):
        VideoSamples(data)


def test_missing_array(data: Path) -> None:
    victim = _training_array(data)
    victim.unlink()
    with pytest.raises(UserError, match=r"\.npy: missing, though the index names it; prepare the data again\.$"):
        VideoSamples(data)


@pytest.mark.parametrize("size", [0, 40, -100])
def test_truncated_array(data: Path, size: int) -> None:
    victim = _training_array(data)
    victim.write_bytes(victim.read_bytes()[:size])
    with pytest.raises(UserError, match=r"\.npy: damaged; delete it and prepare the data again\.$"):
        VideoSamples(data)


def test_array_of_another_shape(data: Path) -> None:
    np.save(_training_array(data), np.zeros((2, 4, 16, 16, 3), np.uint8))
    with pytest.raises(UserError, match=r"must be uint8 \(\d, 4, 32, 32, 3\), is uint8 \(2, 4, 16, 16, 3\); prepare"):
        VideoSamples(data)


def test_empty_validation(clip: Clip, tmp_path: Path) -> None:
    prepare(PrepareConfig(frames=4, size=32), [clip("a", video=synthetic_clip(0, 4, 32))], tmp_path / "data")
    assert len(VideoSamples(tmp_path / "data", "train")) == 1
    with pytest.raises(UserError, match=r"the val split holds no sample; prepare more clips or longer ones\.$"):
        VideoSamples(tmp_path / "data", "val")


def _training_array(data: Path) -> Path:
    index = json.loads((data / "index.json").read_text())
    return data / "clips" / index["clips"][index["train"][0][0]]["file"]
