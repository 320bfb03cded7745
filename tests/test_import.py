"""`import fastinpaint` costs little on top of torch: it imports no heavy module that torch has not imported."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
import json, sys, torch
before = set(sys.modules)
import fastinpaint
print(json.dumps(sorted(set(sys.modules) - before)))
"""
# Of the package, only what `accelerate` needs before a model is given.
ROOMS = {"acceleration", "accelerate", "environment", "errors", "files", "graph", "nn", "ops", "_version"}
MOST_MODULES = 112  # of the package; 111 today


def test_importing_the_package_imports_no_heavy_module() -> None:
    ran = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    new: list[str] = json.loads(ran.stdout)
    own = [name for name in new if name.split(".")[0] == "fastinpaint"]
    assert {name.split(".")[1] for name in own if "." in name} <= ROOMS
    assert len(own) <= MOST_MODULES
    assert set(new) - set(own) == set()
