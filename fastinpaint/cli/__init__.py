"""The command line: ``fastinpaint COMMAND``. One module a command, each with `add_arguments` and `run`."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from fastinpaint._version import __version__
from fastinpaint.errors import UserError

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
    """Raises `UserError` where argparse would print the usage and leave."""

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
    """Inside, SIGTERM and SIGHUP raise SystemExit, so that what is half-written is taken away. In the main thread."""
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
    """The list of commands."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(["usage: fastinpaint COMMAND [OPTIONS]", "", *rows, "", "fastinpaint COMMAND --help tells more."])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, or 2 after one line on stderr where the input was at fault.

    Where whoever reads stdout has left, as in ``fastinpaint info | head -1``, it ends without a word and returns 141,
    what a shell gives a program that SIGPIPE ends.
    """
    try:
        try:
            return _run(list(sys.argv[1:] if argv is None else argv))
        finally:
            sys.stdout.flush()  # here, not at exit, where Python would complain
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(__version__)
        return 0
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"fastinpaint: unknown command {command!r}; known: {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    try:
        args = parser_for(command).parse_args(rest)
        with ended_in_order():
            args.run(args)
    except (UserError, NotImplementedError) as error:  # the second is a backend that was asked for and cannot run
        print(f"fastinpaint {command}: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.filename is None:
            raise
        print(f"fastinpaint {command}: {error.filename}: {error.strerror}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(f"fastinpaint {command}: {str(stop) or 'stopped.'}", file=sys.stderr)
        return 130
    return 0
