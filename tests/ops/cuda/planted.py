"""Runs cases in separate processes on a sanitized or plain emulation, with defects planted in its sources."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.ops.cuda import forks
from tools.verify import emulated
from tools.verify.emulated import Plant

EVERY = os.environ.get("SANITIZED") == "all"  # make sanitized: float16's kernels under the sanitizers too
LAUNCH, HOPPER = "common/cuda_launch.cuh", "conv_block/cuda/hopper/launch.cu"
CASES = {
    "float32": "    case kFloat32:\n      return f(float());\n",
    "bfloat16": "    case kBFloat16:\n      return f(__nv_bfloat16());\n",
    "float16": "    case kFloat16:\n      return f(__half());\n",
}
TF32 = Plant("conv_block/cuda/plan/plan.cuh", "return dtype == kTf32 ? f(Tf32()) : ", "return ")
BFLOAT16_ON_HOPPER = (
    Plant(HOPPER, "\n                                  : launch_hopper<__half>(*conv, *plan, *gather, stream);", ";"),
    Plant(HOPPER, "return conv->dtype == kBFloat16 ? launch_hopper", "return launch_hopper"),
    Plant(HOPPER, " : launch_strip_wgrad<__half>(*w, stream);", ";"),
    Plant(HOPPER, "return dtype == kBFloat16 ? launch_strip", "return launch_strip"),
)


def only(*dtypes: str) -> list[Plant]:
    """What leaves only these dtypes' kernels in the sources, to compile fewer."""
    of_maps = {"float32" if dtype == "tf32" else dtype for dtype in dtypes}
    found = [Plant(LAUNCH, case, "") for name, case in CASES.items() if name not in of_maps]
    if "tf32" not in dtypes:
        found.append(TF32)
    return [*found, *BFLOAT16_ON_HOPPER] if "bfloat16" in of_maps and "float16" not in of_maps else found


# What the sanitizers run: all files take the same, so that each source is compiled once.
DTYPES = ["float32", "tf32", "bfloat16", *(["float16"] if EVERY else [])]
SANITIZED = [] if EVERY else only(*DTYPES)


class Program(NamedTuple):
    """A module whose command line is ``--seeds 1,2 dtypes case ...``, on a library of these sources (None: all).

    variables: of its environment.
    """

    module: str
    sources: tuple[str, ...] | None = None
    variables: dict[str, str] | None = None

    def run(
        self, sanitizer: str, dtypes: str, cases: Sequence[str], seeds: str, library: Path
    ) -> subprocess.CompletedProcess[str]:
        """The finished process; its output names the kernels that were launched."""
        variables = {**(self.variables or {}), "FI_LIBRARY": str(library)}
        return forks.run(sanitizer, self.module, ["--seeds", seeds, dtypes, *cases], variables)

    def launched(self, sanitizer: str, dtypes: str, cases: Sequence[str], seeds: str) -> set[str]:
        """Run the cases without errors; returns the kernels that were launched."""
        plants = [] if sanitizer == "plain" else SANITIZED
        library = emulated.build(sanitizer, plants=plants, sources=self.sources)
        done = self.run(sanitizer, dtypes, cases, seeds, library)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-6000:]
        return set(done.stdout.splitlines())

    def must_find(self, plant: Plant, finder: str, message: str, case: str, dtype: str = "bfloat16") -> None:
        """Check that the defect stops the case on the `finder` build with `message`."""
        plants = [plant, *only(dtype)]
        # g++ -O0 shows no store of a call's result to thread sanitizer
        library = emulated.build(finder, plants=plants, sources=self.sources, optimised=finder == "thread")
        done = self.run(finder, dtype, [case], "1", library)
        assert done.returncode != 0, f"{plant.new!r} for {plant.old!r} went unnoticed"
        assert message in done.stdout + done.stderr, done.stderr[-3000:]
