"""Runs cases in a separate process on a sanitized or plain emulation, with defects planted in its sources."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import NamedTuple

from tools.verify import emulated
from tools.verify.emulated import Plant

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


def alone(dtype: str) -> list[Plant]:
    """What leaves only this dtype's kernels in the sources, which halves the time to compile."""
    of_maps = "float32" if dtype == "tf32" else dtype
    found = [Plant(LAUNCH, case, "") for name, case in CASES.items() if name != of_maps]
    if dtype != "tf32":
        found.append(TF32)
    return [*found, *BFLOAT16_ON_HOPPER] if dtype == "bfloat16" else found


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
        done = self.run(finder, dtype, [case], "1", [plant, *alone(dtype)])
        assert done.returncode != 0, f"{plant.new!r} for {plant.old!r} went unnoticed"
        assert message in done.stdout + done.stderr, done.stderr[-3000:]
