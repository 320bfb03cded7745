"""The folder of a run: ``config.yaml``, ``log.jsonl``, ``curves.png``, ``checkpoints/``, best and last weights."""

from __future__ import annotations

from pathlib import Path

import yaml

from fastinpaint.atomic import PART
from fastinpaint.errors import UserError
from fastinpaint.training.checkpoints import checkpoints, clear_partial, replace_file, saying_what_failed
from fastinpaint.training.config import TrainConfig, read_yaml, resumed


class RunFolder:
    """The names inside a run's folder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.log = path / "log.jsonl"
        self.curves = path / "curves.png"
        self.checkpoints = path / "checkpoints"
        self.best = path / "best.safetensors"
        self.last = path / "last.safetensors"

    def newest(self) -> Path | None:
        """The newest whole checkpoint."""
        found = checkpoints(self.checkpoints)
        return found[-1] if found else None

    def begin(self, config: TrainConfig) -> None:
        """Make the folder and store the config in it.

        Raises:
            UserError: something is there already, which is left as it is.
        """
        with saying_what_failed(self.path):
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise UserError(f"{self.path}: exists already; choose another --out, or go on with it by --resume.")
            self.checkpoints.mkdir(parents=True)
        self._store(config)

    def go_on(self, config: TrainConfig) -> None:
        """Take up a run that was stopped or killed.

        Raises:
            UserError: there is no run, or it was begun with other options.
        """
        newest = self.newest()
        resumed(self.stored_config(), config, int(newest.name.removeprefix("step-")) if newest else 0)
        clear_partial(self.checkpoints)
        for leftover in self.path.glob(f"*{PART}"):
            leftover.unlink()
        self._store(config)

    def stored_config(self) -> TrainConfig:
        """What the run was begun with."""
        if not self.config.is_file():
            raise UserError(f"{self.path}: no run to resume, {self.config.name} is missing.")
        return TrainConfig.from_dict(read_yaml(self.config))

    def _store(self, config: TrainConfig) -> None:
        text = yaml.safe_dump(config.to_dict(), sort_keys=False)
        replace_file(self.config, lambda beside: beside.write_text(text, encoding="utf-8"))
