"""The folder of a run: ``config.yaml``, ``log.jsonl``, ``curves.png``, ``checkpoints/``, best and last weights."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from fastinpaint.errors import UserError, shown
from fastinpaint.files import PART, locked
from fastinpaint.strict_yaml import read_yaml
from fastinpaint.training.checkpoints import (
    as_user_error,
    checkpoints,
    clear_partial,
    remove,
    replace_file,
    step_of,
)
from fastinpaint.training.config import TrainConfig, resumed
from fastinpaint.training.logs import read_log

VERSION = 1
"""Version of the folder's format. A folder without a version is of version 1."""

OLD_PART = ".partial"  # suffix of unfinished files in earlier releases


class RunFolder:
    """The files of a run. `create` and `resume` lock the folder; leaving the context releases the lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.log = path / "log.jsonl"
        self.curves = path / "curves.png"
        self.checkpoints = path / "checkpoints"
        self.best = path / "best.safetensors"
        self.last = path / "last.safetensors"
        self._held = ExitStack()

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held.close()

    def newest(self) -> Path | None:
        """The newest complete checkpoint."""
        found = checkpoints(self.checkpoints)
        return found[-1] if found else None

    def create(self, config: TrainConfig) -> None:
        """Create the folder and store the config in it.

        Raises:
            UserError: the path exists already; it is left unchanged.
        """
        with as_user_error(self.path):
            if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
                raise UserError(f"{self.path}: exists already; choose another --out, or go on with it by --resume.")
            made = _missing_folders(self.path)
            self.checkpoints.mkdir(parents=True)
        self._held.enter_context(locked(self.path, "the run"))
        try:
            self._store(config)
        except BaseException:
            self.checkpoints.rmdir()
            for folder in made:
                folder.rmdir()
            raise

    def resume(self, config: TrainConfig) -> None:
        """Continue a run that was stopped or killed.

        Raises:
            UserError: there is no run, or it was started with other options.
        """
        self.check(config)
        self._held.enter_context(locked(self.path, "the run"))
        clear_partial(self.checkpoints)
        for leftover in [path for path in self.path.iterdir() if path.name.endswith((PART, OLD_PART))]:
            remove(leftover)
        self.checkpoints.mkdir(exist_ok=True)
        self._store(config)

    def check(self, config: TrainConfig) -> None:
        """Check that the run may continue with ``config``, without changing anything. Raises as `resume`."""
        newest = self.newest()
        resumed(self.stored_config(), config, step_of(newest) if newest else 0)
        read_log(self.log)

    def stored_config(self) -> TrainConfig:
        """The config that the run was started with."""
        if not self.config.exists():
            raise UserError(f"{self.path}: no run to resume, {self.config.name} is missing.")
        values = read_options(self.config)
        missing = [name for name in TrainConfig().to_dict() if name not in values]
        if missing:
            raise UserError(f"{self.config}: damaged: it names no {missing[0]}.")
        return TrainConfig.from_dict(values)

    def _store(self, config: TrainConfig) -> None:
        text = yaml.safe_dump({"version": VERSION, **config.to_dict()}, sort_keys=False)
        replace_file(self.config, lambda beside: beside.write_text(text, encoding="utf-8"))


def read_options(path: Path) -> dict[str, Any]:
    """Read the options of a YAML file, for instance a run's own ``config.yaml``.

    Raises:
        UserError: the file is unreadable, not plain YAML, or of another version.
    """
    values = read_yaml(path)
    version = values.pop("version", str(VERSION))
    if version != str(VERSION):
        raise UserError(f"{path}: of version {shown(version)}; this fastinpaint reads version {VERSION}.")
    return values


def _missing_folders(path: Path) -> list[Path]:
    """The missing folders of a path, deepest first."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]
