"""Compares two runs of the suite case by case and prints the medians that did not repeat.

    python -m benchmarks.compare FIRST.jsonl SECOND.jsonl [--mark]

A case did not repeat if its medians differ by more than 5 %. ``--mark`` also marks such rows as noisy in both files,
and adds the other run's median as ``repeat_p50``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from benchmarks.pictures import Row, sizes
from fastinpaint.bench import rows
from fastinpaint.bench.measure import REPEATS_WITHIN
from fastinpaint.errors import UserError
from fastinpaint.files import replace_text

Key = tuple[str, str, tuple[int, int, int]]


def timed(found: list[Row]) -> dict[Key, Row]:
    """The last timed row of each case, contender and size."""
    return {(row["case"], row["contender"], sizes(row)): row for row in found if "p50" in row}


def mark(path: Path, other: dict[Key, Row], apart: list[Key]) -> None:
    """Mark rows of a file as noisy. The file is replaced atomically."""
    found = rows.read([path])
    for key, row in timed(found).items():
        if key in other:
            row["repeat_p50"] = other[key]["p50"]
            row["noisy"] = row["noisy"] or key in apart
    text = "".join(json.dumps(row, sort_keys=True) + "\n" for row in found)
    replace_text(path, text)


def main(arguments: list[str] | None = None) -> int:
    """Print what did not repeat. Returns 0 even then, because it is not an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("first", type=Path)
    parser.add_argument("second", type=Path)
    parser.add_argument("--mark", action="store_true", help="mark those rows noisy in both files")
    args = parser.parse_args(arguments)
    try:
        first, second = (timed(rows.read([path])) for path in (args.first, args.second))
    except (UserError, OSError) as error:
        print(f"compare: {error}", file=sys.stderr)
        return 2
    both = [key for key in first if key in second]
    ratios = {key: second[key]["p50"] / first[key]["p50"] for key in both}
    apart = [key for key in both if abs(ratios[key] - 1) > REPEATS_WITHIN]
    for key in sorted(apart, key=lambda key: -abs(ratios[key] - 1)):
        frames = f", F={key[2][0]}" if key[2][0] else ""
        print(f"{key[0] + frames:<28}{key[1]:<22}{first[key]['p50']:>10.4g} s{second[key]['p50']:>10.4g} s"
              f"{100 * (ratios[key] - 1):>+8.1f} %")  # fmt: skip
    print(f"{len(both)} cases in both, {len(apart)} with medians more than {100 * REPEATS_WITHIN:g} % apart")
    if args.mark:
        mark(args.first, second, apart)
        mark(args.second, first, apart)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
