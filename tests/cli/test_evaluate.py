"""``fastinpaint evaluate`` from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fastinpaint.cli import main
from fastinpaint.data.prepare import PrepareConfig, prepare
from fastinpaint.data.synthetic import synthetic_clip
from fastinpaint.models import ModelConfig, TwoDCN, VideoCompletionNet
from fastinpaint.models.weights import save_weights
from tests.conftest import write_frames

CONFIG = ModelConfig(width=0.0625)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("prepared")
    clips = [write_frames(root / f"clip{seed}", synthetic_clip(seed, 4, 24)) for seed in range(6)]
    prepare(PrepareConfig(frames=2, size=24), clips, root / "data")
    return root / "data"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    save_weights(folder / "best.safetensors", VideoCompletionNet(CONFIG))
    save_weights(folder / "last.safetensors", TwoDCN(CONFIG))
    return folder


def test_a_run_and_a_weights_file_side_by_side(
    tmp_path: Path, data: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone, out = tmp_path / "alone.safetensors", tmp_path / "out"
    save_weights(alone, TwoDCN(CONFIG))
    arguments = ["evaluate", str(run), str(alone), "--data", str(data), "--holes", "strokes", "--out", str(out)]
    assert main([*arguments, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    rows = [line.split("  ")[0] for line in printed.splitlines()[2:11]]
    rivals = ["Telea", "Navier-Stokes", "temporal median", "nearest in time", "propagation"]
    assert rows == ["3DCN (12x12)", "3DCN", "2DCN", "CombCN", *rivals]
    facts = json.loads((out / "evaluation.json").read_text())
    assert facts["weights"] == [str(run), str(alone)]
    assert facts["samples"] == 2
    for name in ("evaluation.json", "frames.png", "differences.png"):
        assert str(out / name) in printed
        assert (out / name).is_file()


def test_a_network_that_corrects_is_measured_on_the_propagated_fill(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "correction.safetensors"
    save_weights(weights, TwoDCN(ModelConfig(width=0.0625, fill="propagated")), {"frames": 2, "size": 16})
    options = ["--data", str(data), "--no-rivals", "--limit", "1", "--device", "cpu"]
    assert main(["evaluate", str(weights), *options]) == 0
    assert capsys.readouterr().out.splitlines()[2].startswith("propagation + network, correction  ")


def test_limit_split_and_no_rivals(data: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--limit", "1", "--split", "train", "--no-rivals", "--device", "cpu"]
    assert main(["evaluate", str(run / "last.safetensors"), "--data", str(data), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("1 samples of 2 frames, 24x24")
    assert lines[2].startswith("2DCN")
    assert lines[3].startswith("hole L1:")


def test_videos_without_a_network(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = [write_frames(tmp_path / f"clip{n}", synthetic_clip(n, 4 + n, 32)) for n in range(2)]
    videos = [option for clip in clips for option in ("--video", str(clip))]
    arguments = ["evaluate", *videos, "--holes", "random", "--size", "24", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 samples of 4 frames, 24x24, holes: rectangles"
    assert [line.split("  ")[0] for line in lines[2:8]] == [
        "Telea", "Navier-Stokes", "temporal median", "nearest in time", "propagation", "propagation + network",
    ]  # fmt: skip
    facts = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert facts["videos"] == list(map(str, clips))
    assert facts["means"]["propagation"]["hole_l1"] < facts["means"]["Telea"]["hole_l1"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["{tmp}/none", "--data", "{data}"], ("none", "no such weights file")),
        (["{tmp}", "--data", "{data}"], ("best.safetensors", "neither")),
        (["{run}", "--data", "{tmp}/none"], ("none",)),
        (["{run}", "--data", "{data}", "--split", "test"], ("train, val", "'test'")),
        (["{run}", "--data", "{data}", "--holes", "blobs"], ("rectangle, rectangles, strokes", "'blobs'")),
        (["{run}", "--data", "{data}", "--limit", "0"], ("limit", "0")),
        (["{run}", "--data", "{data}", "--seed", "-1"], ("--seed", "-1")),
        (["{run}", "--data", "{data}", "--device", "tpu"], ("device 'tpu'", "cannot be used")),
        (["{run}", "--data", "{data}", "--backend", "fast"], ("backend", "reference", "'fast'")),
    ],
    ids=["weights", "folder", "data", "split", "holes", "limit", "seed", "device", "backend"],
)
def test_bad_input_is_one_line_and_status_2(
    options: list[str],
    words: tuple[str, ...],
    tmp_path: Path,
    data: Path,
    run: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    filled = [text.format(tmp=tmp_path, data=data, run=run) for text in options]
    assert main(["evaluate", *filled, "--out", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert all(word in printed.err for word in words), printed.err
    assert not (tmp_path / "out").exists()
