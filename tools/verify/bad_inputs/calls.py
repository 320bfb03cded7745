"""What a call is: a command line, the files and the surroundings that it meets, and what is expected of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

REFUSED = "refused"
"""Exit code 2 after one sentence; no file has appeared or changed."""

SURVIVES = "survives"
"""Refused as above, or done, with nothing half-written: a damaged file may still be readable."""

STOPS = "stops"
"""Ends with exit code 2 or 0; what it has finished stays, for another call to go on with; nothing half-written."""

DONE = "done"
"""Exit code 0: a good call, which shows that the harness itself does not cause the refusals."""

Setup = Callable[[Path], None]


@dataclass(frozen=True)
class Call:
    """One call of the command line.

    Attributes:
        kind: the kind of badness, for the counts: "number: negative".
        command: of the eight.
        argv: what follows the command.
        expects: `REFUSED`, `SURVIVES`, `STOPS` or `DONE`.
        setup: fills the folder that the call runs in, before the files are recorded.
        env: variables to set; None removes one.
        stdout, stderr: "file" (recorded), "full" (/dev/full), "gone" (a pipe whose reader has left) or "closed".
        most_bytes: largest file that the process may write, as on a full disk; None: no limit.
        fresh: in a process of its own, not in a fork of the warm one.
        nobody: as a user without a name and without a home.
    """

    kind: str
    command: str
    argv: tuple[str, ...] = ()
    expects: str = REFUSED
    setup: Setup | None = None
    env: Mapping[str, str | None] = field(default_factory=dict)
    stdout: str = "file"
    stderr: str = "file"
    most_bytes: int | None = None
    fresh: bool = False
    nobody: bool = False

    def __str__(self) -> str:
        words = [word if len(word) < 80 else f"{word[:60]}...({len(word)} characters)" for word in self.argv]
        extra = "".join(f" {name}={str(value)[:40]}" for name, value in self.env.items())
        return f"[{self.kind}]{extra} {self.command} {' '.join(map(repr, words))}"


@dataclass(frozen=True)
class Outcome:
    """What a call did.

    Attributes:
        code: exit code, negative for a signal.
        stdout, stderr: what was recorded.
        seconds: wall-clock time.
        peak_bytes: most resident memory of the process.
        stopped: why the harness ended it, "" where it ended by itself.
        changed: the files that appeared, disappeared or changed.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float
    peak_bytes: int
    stopped: str
    changed: tuple[str, ...]
