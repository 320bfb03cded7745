"""Saves an evaluation: figures as JSON, examples as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fastinpaint.data.store import write_json
from fastinpaint.errors import UserError
from fastinpaint.metrics.evaluation import Evaluation
from fastinpaint.metrics.pictures import difference_rows, frame_rows, save_grid


def save_report(evaluation: Evaluation, folder: str | Path, facts: Mapping[str, Any] | None = None) -> list[Path]:
    """Write evaluation.json, frames.png (as Fig. 3) and, for several frames, differences.png (as Fig. 4).

    Args:
        folder: created if missing; each file is written atomically.
        facts: more entries for the JSON, for instance the data and the weights.

    Returns:
        The files written.

    Raises:
        UserError: the folder or a file cannot be written.
    """
    folder = Path(folder)
    written = [folder / "evaluation.json"]
    grids = {folder / "frames.png": frame_rows(evaluation.examples)}
    if evaluation.frames > 1:
        grids[folder / "differences.png"] = difference_rows(evaluation.examples)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(written[0], {**(facts or {}), **evaluation.to_dict()})
        for path, rows in grids.items():
            if rows:
                save_grid(rows, path)
                written.append(path)
    except OSError as error:
        raise UserError(f"cannot write the evaluation to {folder}: {error}.") from error
    return written
