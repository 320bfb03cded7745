"""kill -9 in the middle of a save."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.slow
def test_killed_at_every_point_of_a_save_and_resumed_gives_the_bits_of_an_unbroken_run(
    data: Path, tmp_path: Path
) -> None:
    script = Path(__file__).with_name("kill_in_save.py")
    result = subprocess.run(
        [sys.executable, str(script), str(data), str(tmp_path)], capture_output=True, text=True, timeout=900
    )
    assert result.returncode == 0, result.stderr
    assert int(result.stdout.splitlines()[-1]) >= 15
