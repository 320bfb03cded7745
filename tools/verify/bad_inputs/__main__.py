"""``python -m tools.verify.bad_inputs``: make the calls, name every fault, keep the results."""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tools.verify.bad_inputs import grammar, judge, material, server


def main() -> int:
    """Returns 0 where no call has a fault, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tools.verify.bad_inputs", description=__doc__)
    parser.add_argument("--only", metavar="PATTERN", default="", help="calls whose description matches")
    parser.add_argument("--sample", metavar="N", type=int, help="N of the calls, of every kind and command")
    parser.add_argument("--part", metavar="I/N", default="1/1", help="the I-th of N equal parts")
    parser.add_argument("--results", metavar="FILE", type=Path, help="append one JSON object a call")
    parser.add_argument("--list", action="store_true", help="print the calls and make none")
    parser.add_argument("--many", metavar="N", type=int, default=material.MANY, help="files of the folder with many")
    args = parser.parse_args()
    server.warm_up()
    with tempfile.TemporaryDirectory(prefix="bad-inputs-material-") as name:
        place = Path(name)
        place.chmod(0o755)
        if not args.list:
            server.in_child(lambda: material.make(place, args.many))
        calls = grammar.calls(place)
        if args.sample:
            calls = grammar.chosen(calls, args.sample)
        calls = [call for call in calls if re.search(args.only, str(call))]
        part, parts = map(int, args.part.split("/"))
        calls = calls[part - 1 :: parts]
        if args.list:
            print("\n".join(map(str, calls)))
            print(f"{len(calls)} calls")
            return 0
        return 1 if make(calls, place, args.results) else 0


def make(calls: list[grammar.Call], place: Path, results: Path | None) -> int:
    """Make the calls; prints each fault and a line of counts; returns the number of calls with a fault."""
    bad, start = 0, time.monotonic()
    for number, call in enumerate(calls, 1):
        outcome = server.run(call, place)
        found = judge.faults(call, outcome)
        bad += bool(found)
        for fault in found:
            print(f"{number}: {call}\n    {fault}", flush=True)
        if results is not None:
            row: dict[str, Any] = {"kind": call.kind, "command": call.command, "call": str(call), "faults": found}
            row |= {"code": outcome.code, "seconds": round(outcome.seconds, 2), "peak_mib": outcome.peak_bytes >> 20}
            with results.open("a") as file:
                file.write(json.dumps(row) + "\n")
    print(f"{len(calls)} calls in {time.monotonic() - start:.0f} s: {bad} with a fault.")
    return bad


if __name__ == "__main__":
    sys.exit(main())
