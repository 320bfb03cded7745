"""The command line: ``fastinpaint COMMAND``. One module a command, each with `add_arguments` and `run`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from fastinpaint import environment
from fastinpaint._version import __version__
from fastinpaint.errors import UserError, one_line, shown

NO_MEMORY = "can't allocate memory:"  # what torch's error says where the CPU has no memory left

COMMANDS = {
    "inpaint": "fill the holes of a video",
    "prepare": "turn videos into training samples",
    "train": "train the networks",
    "evaluate": "measure trained networks on a validation set",
    "demo": "the whole system in a few minutes, no file needed",
    "info": "what is built, what can run here and why not",
    "tune": "measure the backends for a model's layers and remember the best",
    "bench": "time and memory beside plain PyTorch, at your own sizes",
}


class Parser(argparse.ArgumentParser):
    """Raises `UserError` where argparse would print the usage and leave. Takes "-8,0,40,40" for a value."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._negative_number_matcher = re.compile(r"-\.?\d")  # argparse's own matches single numbers alone

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; {self.prog} --help tells more.")


def parser_for(command: str) -> argparse.ArgumentParser:
    """The parser of one command; only that command's module is imported."""
    parser = Parser(prog=f"fastinpaint {command}", description=COMMANDS[command])
    module = importlib.import_module(f"fastinpaint.cli.{command}")
    module.add_arguments(parser)
    parser.set_defaults(run=module.run)
    return parser


@contextmanager
def ended_in_order() -> Iterator[None]:
    """Inside, SIGTERM and SIGHUP raise SystemExit, so that half-written files are removed. For the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(128 + number)

    caught = [number for number in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(number) is signal.SIG_DFL]
    for number in caught:  # nohup's SIGHUP stays ignored
        signal.signal(number, leave)
    try:
        yield
    finally:
        for number in caught:
            signal.signal(number, signal.SIG_DFL)


def usage() -> str:
    """The list of commands, as text."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: fastinpaint COMMAND [OPTIONS]", "", *rows, "", "fastinpaint COMMAND --help tells more."])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, or 2 after one line on stderr if the input was at fault.

    If the reader of stdout has closed it, as in ``fastinpaint info | head -1``, the command ends silently and returns
    141, the status that a shell reports for a program ended by SIGPIPE.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    open_streams()
    code = 0
    try:
        try:
            code = _run(arguments)
        finally:
            sys.stdout.flush()  # here, not at exit, where Python would complain
        return code
    except BrokenPipeError:
        _give_up_stdout()
        return 128 + signal.SIGPIPE
    except OSError as error:  # a full disk behind stdout
        _give_up_stdout()
        if code:  # the error was printed already
            return code
        _say(f"fastinpaint {arguments[0] if arguments else ''}: standard output: {error.strerror}.")
        return 2


def open_streams() -> None:
    """Keep file descriptors 0 to 2 in use, or the next file opened would become stdout. Let any name print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _give_up_stdout() -> None:
    """Discard what is left in stdout's buffer."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(sentence: str) -> None:
    """One line on stderr, if that can be written to."""
    with contextlib.suppress(OSError):
        print(one_line(sentence), file=sys.stderr, flush=True)


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        _say(f"fastinpaint: unknown command {shown(command)}; known: {', '.join(COMMANDS)}.")
        return 2
    try:
        environment.check()
        args = parser_for(command).parse_args(rest)
        with ended_in_order():
            args.run(args)
    except (UserError, NotImplementedError) as error:  # the second: a named backend cannot run here
        return _refuse(command, str(error))
    except MemoryError:
        return _refuse(command, "there is too little memory for this.")
    except RuntimeError as error:
        if NO_MEMORY not in str(error):
            raise
        return _refuse(
            command, f"there is too little memory for this ({str(error).partition(NO_MEMORY)[2].strip('. ')})."
        )
    except OSError as error:
        if isinstance(error, BrokenPipeError) or error.filename is None:
            raise
        return _refuse(command, f"{_name(error.filename)}: {error.strerror}.")
    except KeyboardInterrupt as stop:
        _say(f"fastinpaint {command}: {str(stop) or 'stopped.'}")
        return 130
    return 0


def _refuse(command: str, sentence: str) -> int:
    _say(f"fastinpaint {command}: {sentence}")
    return 2


def _name(file: object) -> str:
    return os.fsdecode(file) if isinstance(file, (str, bytes, os.PathLike)) else str(file)
