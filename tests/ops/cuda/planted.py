"""Runs cases in a separate process on a sanitized or plain emulation, with defects planted in its sources."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from tools.verify import emulated
from tools.verify.emulated import Plant


class Program(NamedTuple):
    """A module whose command line is ``--seeds 1,2 dtypes case ...``, on a library of these sources (None: all).

    variables: of its environment.
    """

    module: str
    sources: tuple[str, ...] | None = None
    variables: dict[str, str] | None = None

    def run(
        self, sanitizer: str, dtypes: str, cases: Sequence[str], seeds: str, plants: Sequence[Plant] = ()
    ) -> subprocess.CompletedProcess[str]:
        """The finished process; its output names the kernels that were launched."""
        command = [sys.executable, "-m", self.module, "--seeds", seeds, dtypes, *cases]
        library = emulated.build(sanitizer, plants=plants, sources=self.sources)
        return emulated.run(sanitizer, command, library, variables=self.variables)

    def launched(self, sanitizer: str, dtypes: str, cases: Sequence[str], seeds: str) -> set[str]:
        """Run the cases without errors; returns the kernels that were launched."""
        done = self.run(sanitizer, dtypes, cases, seeds)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
        return set(done.stdout.splitlines())

    def must_find(self, plant: Plant, finder: str, message: str, case: str, dtype: str = "bfloat16") -> None:
        """Check that the defect stops the case on the `finder` build with `message`."""
        done = self.run(finder, dtype, [case], "1", [plant])
        assert done.returncode != 0, f"{plant.new!r} for {plant.old!r} went unnoticed"
        assert message in done.stdout + done.stderr, done.stderr[-3000:]
