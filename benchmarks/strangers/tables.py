"""Tables in Markdown of the rows that ``benchmarks.strangers.measure`` writes.

    python -m benchmarks.strangers.tables FILE ...             # the newest run of each network
    python -m benchmarks.strangers.tables --ranges FILE ...    # the least and the most of several files, by machine

Each file of ``--ranges`` counts as one run, and a network's newest rows in it count.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastinpaint.bench import rows

KIND = "strangers"
STOCK = ("stock contiguous", "stock channels-last")
COMPILED = "torch.compile"
SHORT = 0.02  # seconds; shorter times are printed with a decimal

Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """One network's contenders in one run.

    Attributes:
        case: network, input and mode.
        device: the machine.
        by: the rows by contender.
    """

    case: str
    device: str
    by: dict[str, Row]

    @property
    def stock(self) -> list[Row]:
        """The rows of stock's two layouts."""
        return [self.by[who] for who in STOCK]

    @property
    def ours(self) -> Row:
        """The accelerated model's row."""
        return next(row for who, row in reversed(self.by.items()) if who not in (*STOCK, COMPILED))

    @property
    def speed(self) -> float:
        """The better stock layout's time over ours: the median over turns, in older rows the ratio of medians."""
        return self.ours.get("speed") or min(row["p50"] for row in self.stock) / self.ours["p50"]

    @property
    def least(self) -> int:
        """The fewer bytes of stock's two layouts."""
        return min(row["kept_bytes"] for row in self.stock)

    @property
    def share(self) -> float:
        """Our kept bytes over stock's; 1 in evaluation, which keeps nothing."""
        return self.ours["kept_bytes"] / self.least if self.least else 1.0


def runs_of(found: Sequence[Row]) -> list[Run]:
    """The runs in a list of rows, in which a run's rows follow one another, ours last."""
    runs, by = [], {}
    for row in found:
        if row["kind"] != KIND:
            continue
        by[row["contender"]] = row
        if row["contender"] not in (*STOCK, COMPILED):
            mode = row.get("mode", "training")
            how = ("" if mode == "training" else f", {mode}") + (", bfloat16" if "bf" in row.get("dtype", "") else "")
            runs.append(Run(f"{row['case']} {row['input']}{how}", row["device"], by))
            by = {}
    return runs


def mean(values: Sequence[float]) -> float:
    """The geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def newest(found: Sequence[Row]) -> list[Run]:
    """The newest run of each network."""
    return list({run.case: run for run in runs_of(found)}.values())


def table(runs: Sequence[Run]) -> str:
    """One line a run; then the geometric means."""
    beside = [COMPILED] if any(COMPILED in run.by for run in runs) else []
    heads = ["network, input", "contiguous ms", "channels-last ms", *(f"{who} ms" for who in beside)]
    heads += ["accelerated ms", "best / ours", "kept MiB, best -> ours"]
    lines = _head(heads)
    for run in runs:
        times = " | ".join(_ms(row) for row in (*run.stock, *(run.by.get(who) for who in beside), run.ours))
        kept = f"{run.least / 2**20:.0f} -> {run.ours['kept_bytes'] / 2**20:.0f}"
        if (held := run.ours.get("held_bytes", 0)) > 1.01 * run.ours["kept_bytes"]:
            kept += f" ({held / 2**20:.0f} with what backward computes again)"
        lines.append(f"| {run.case} | {times} | {run.speed:.2f} | {kept} |")
    speed, share = mean([run.speed for run in runs]), mean([run.share for run in runs])
    last = f"| geometric mean of {len(runs)} {'| ' * (len(heads) - 3)}| {speed:.2f} | {share:.2f} of best |"
    return "\n".join([*lines, last])


def ranges(files: Sequence[Sequence[Run]]) -> str:
    """One line a network: by machine the runs, the least and the most of speed and of the kept bytes' share."""
    runs = [run for file in reversed(files) for run in file]
    devices, cases = (list(dict.fromkeys(getattr(run, name) for run in runs)) for name in ("device", "case"))
    heads = [head for device in devices for head in (f"{device}: runs", "best / ours", "kept / best's")]
    lines = _head(["network, input", *heads])
    for case in cases:
        cells = [case]
        for device in devices:
            here = [run for run in runs if run.case == case and run.device == device]
            cells += [str(len(here)), _range([run.speed for run in here]), _range([run.share for run in here])]
        lines.append(f"| {' | '.join(cells)} |")
    whole = [(file[0].device, mean([r.speed for r in file]), mean([r.share for r in file])) for file in files]
    cells = [f"geometric mean of {len(cases)}"]
    for device in devices:
        here = [(speed, share) for where, speed, share in whole if where == device]
        cells += [str(len(here)), _range([speed for speed, _ in here]), _range([share for _, share in here])]
    return "\n".join([*lines, f"| {' | '.join(cells)} |"])


def _head(heads: Sequence[str]) -> list[str]:
    return [f"| {' | '.join(heads)} |", "| --- " * len(heads) + "|"]


def _range(values: Sequence[float]) -> str:
    """The least and the most; nothing where there is no value."""
    if not values:
        return ""
    least, most = f"{min(values):.2f}", f"{max(values):.2f}"
    return least if least == most else f"{least} to {most}"


def _ms(row: Row | None) -> str:
    """A row's milliseconds; nothing where there is no row."""
    return f"{1e3 * row['p50']:.{0 if row['p50'] > SHORT else 1}f}" if row else ""


def main() -> int:
    """Print one of the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--ranges", action="store_true", help="the least and the most of several files, by machine")
    args = parser.parse_args()
    print(
        ranges([newest(rows.read([file])) for file in args.files])
        if args.ranges
        else table(newest(rows.read(args.files)))
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
