import argparse
import os
import signal
import subprocess
import sys
import time

import pytest

from fastinpaint import __version__, cli
from fastinpaint.cli import COMMANDS, main
from fastinpaint.inference.output import whole_or_nothing
from fastinpaint.ops.dispatch import registry


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["--help"], 0), (["-h"], 0)])
def test_without_a_command_the_commands_are_listed(capsys, arguments, code):
    assert main(arguments) == code
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)


def test_the_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


def test_an_unknown_command_lists_the_known_ones(capsys):
    assert main(["paint"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "'paint'" in error
    assert all(name in error for name in COMMANDS)


def test_options_that_do_not_fit_are_one_line(capsys):
    assert main(["inpaint", "a.mp4", "-o", "b.mp4", "-w", "w", "--size", "large"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "argument --size: must be a whole number from 8 to 8192, got 'large'" in error


def test_the_command_runs_as_a_program():
    done = subprocess.run([sys.executable, "-m", "fastinpaint", "paint"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "unknown command 'paint'" in done.stderr


@pytest.mark.parametrize("asked", ["argument", "variable"])
def test_an_unknown_backend_is_one_line(asked, monkeypatch, capsys):
    monkeypatch.setenv(registry.VARIABLE, "cuba" if asked == "variable" else "")
    backend = "cuba" if asked == "argument" else "auto"
    assert main(["bench", "--frames", "1", "--size", "16", "--width", "0.125", "--backend", backend]) == 2
    said = capsys.readouterr().err
    name = "backend" if asked == "argument" else registry.VARIABLE
    assert said.startswith(f"fastinpaint bench: {name} must be one of auto, reference, ")
    assert said.endswith(", got 'cuba'.\n")


@pytest.mark.parametrize("arguments", [["--help"], ["info"]])
def test_a_reader_that_leaves_ends_it_without_a_word(arguments):
    reads, writes = os.pipe()
    os.close(reads)
    try:
        command = [sys.executable, "-m", "fastinpaint", *arguments]
        done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True, check=False)
    finally:
        os.close(writes)
    assert done.stderr == ""
    assert done.returncode == 128 + signal.SIGPIPE


@pytest.fixture
def default_signals():
    """What signals do where nohup and the like have not changed it."""
    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    yield
    for number, action in zip(numbers, before, strict=True):
        signal.signal(number, action)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
@pytest.mark.usefixtures("default_signals")
def test_a_signal_leaves_nothing_half_written(number, tmp_path, monkeypatch):
    def run(args):
        with whole_or_nothing(tmp_path / "out.mp4") as beside:
            beside.write_text("half")
            os.kill(os.getpid(), number)
            time.sleep(60)

    parser = argparse.ArgumentParser()
    parser.set_defaults(run=run)
    monkeypatch.setattr(cli, "parser_for", lambda command: parser)
    with pytest.raises(SystemExit) as stop:
        main(["inpaint"])
    assert stop.value.code == 128 + number
    assert not list(tmp_path.iterdir())
    assert signal.getsignal(number) is signal.SIG_DFL


def test_a_file_that_the_system_refuses_is_one_line(capsys):
    name = "a" * 300
    assert main(["inpaint", name, "-o", "b.mp4", "-w", name]) == 2
    assert capsys.readouterr().err == f"fastinpaint inpaint: {name}: File name too long.\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bench", "--device", "toaster"], "device 'toaster' cannot be used here"),
        (["tune", "--frames", "0"], "--frames: must be a whole number from 1 to 4096, got '0'"),
        (["demo", "--out", "new", "--backend", "triton"], "backend 'triton' cannot run this"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_what_cannot_be_is_refused_before_anything_is_done(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert not list(tmp_path.iterdir())
