"""Runs the harness on commands that misbehave on purpose, and prints the faults as JSON. Used by test_bad_inputs.py.

It is a separate process, because the harness forks its process.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import fastinpaint.cli
from tools.verify.bad_inputs import judge, server
from tools.verify.bad_inputs.calls import REFUSED, Call

GOOD = "fastinpaint info: the option must be 1, got 2."


def _says(*lines: str, code: int = 2) -> Callable[[list[str]], int]:
    def main(argv: list[str]) -> int:
        for line in lines:
            print(line, file=sys.stderr)
        return code

    return main


def _raises(argv: list[str]) -> int:
    raise ValueError("planted")


def _writes(name: str) -> Callable[[list[str]], int]:
    def main(argv: list[str]) -> int:
        Path(name).write_text("half")
        return _says(GOOD)(argv)

    return main


def _takes_memory(argv: list[str]) -> int:
    kept = bytearray(server.MOST_BYTES + 2**28)
    kept[::4096] = b"x" * len(kept[::4096])
    return _says(GOOD)(argv)


def _sleeps(argv: list[str]) -> int:
    time.sleep(60)
    return 2


PLANTED: dict[str, Callable[[list[str]], int]] = {
    "good": _says(GOOD),
    "traceback": _raises,
    "two lines": _says(GOOD, "and more"),
    "nothing said": _says(),
    "no full stop": _says("fastinpaint info: bad"),
    "another beginning": _says("error: the option must be 1."),
    "not refused": _says(code=0),
    "another code": _says(GOOD, code=1),
    "a new file": _writes("result.json"),
    "half-written": _writes("result.mp4.part"),
    "memory": _takes_memory,
    "time": _sleeps,
}


def main() -> None:
    """Every misbehaviour once."""
    server.MOST_BYTES = 2**29
    found = {}
    with tempfile.TemporaryDirectory() as material:
        for name, misbehave in PLANTED.items():
            fastinpaint.cli.main = misbehave  # type: ignore[assignment]
            server.MOST_SECONDS = 1.0 if name == "time" else 60.0  # a machine may be busy
            call = Call("planted", "info", (), REFUSED)
            found[name] = judge.faults(call, server.run(call, Path(material)))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
