"""``fastinpaint train`` as a person calls it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from fastinpaint.cli import main
from fastinpaint.training import TrainConfig, trainer
from fastinpaint.training.logs import read_log
from fastinpaint.training.run_folder import RunFolder

TINY = ["--width", "0.0625", "--pretrain-steps", "2", "--steps", "2"]


@pytest.fixture(autouse=True)
def no_drawing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "plot_curves", lambda logs, out: None)


def test_options_of_the_file_and_over_it_are_stored(data: Path, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("strategy: t2\nlr: 1e-4\nsteps: 50\nvariant: v2\nmodel:\n  width: 0.0625\n")
    run = tmp_path / "run"
    assert main(["train", str(data), "--out", str(run), "--config", str(tmp_path / "my.yaml"), "--steps", "1"]) == 0
    stored = yaml.safe_load((run / "config.yaml").read_text())
    assert (stored["strategy"], stored["lr"], stored["steps"]) == ("t2", 1e-4, 1)
    assert (stored["model"]["width"], stored["model"]["time_stride"]) == (0.0625, 2)
    assert stored.keys() == {"version", *TrainConfig().to_dict()}


def test_resume_takes_the_stored_options(data: Path, tmp_path: Path) -> None:
    arguments = ["train", str(data), "--out", str(tmp_path / "run")]
    assert main([*arguments, *TINY, "--seed", "3"]) == 0
    assert main([*arguments, "--resume", "--steps", "3"]) == 0
    assert RunFolder(tmp_path / "run").stored_config().seed == 3
    assert read_log(tmp_path / "run/log.jsonl")[-1]["step"] == 5


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--strategy", "t9"], "strategy: unknown value 't9'; known: paper, t1, t2, 2dcn."),
        (["--steps", "some"], "steps: must be a whole number from 0 to 1e9, got 'some'."),
        (["--skips", "both"], "skips must be one of concat, add, got 'both'."),
        (["--config", "none.yaml"], "none.yaml: No such file or directory."),
        (["--resume"], "no run to resume, config.yaml is missing."),
        (["--memory", "low"], "memory: low needs fused layers; choose a backend other than reference."),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_bad_input_is_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    assert main(["train", str(data), "--out", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fastinpaint train: ")
    assert error.endswith(words + "\n")
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_data_that_is_not_there_makes_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(tmp_path / "none"), "--out", str(tmp_path / "run")]) == 2
    assert "none: no such folder" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ctrl_c_at_the_terminal(data: Path, tmp_path: Path) -> None:
    """A separate process with data workers is interrupted as by a terminal: the whole process group at once."""
    run = tmp_path / "run"
    options = ["--out", str(run), "--width", "0.0625", "--steps", "1000000", "--strategy", "2dcn", "--workers", "1"]
    command = [sys.executable, "-m", "fastinpaint", "train", str(data), *options, "--log-every", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 300
    while not read_log(run / "log.jsonl") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 130, error
    newest = RunFolder(run).newest()
    assert newest is not None
    step = int(newest.name.removeprefix("step-"))
    assert read_log(run / "log.jsonl")[-1]["step"] == step
    last = error.splitlines()[-1]
    assert last == (
        f"fastinpaint train: stopped after step {step}, which is saved; go on with: "
        f"fastinpaint train {data} --out {run} --resume"
    )
    assert "Traceback" not in error
