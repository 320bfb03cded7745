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
    checkpoints,
    clear_partial,
    remove,
    replace_file,
    saying_what_failed,
    step_of,
)
from fastinpaint.training.config import TrainConfig, resumed
from fastinpaint.training.logs import read_log

VERSION = 1
"""Of what lies in a run's folder; one that says nothing is of version 1."""

OLD_PART = ".partial"  # how unfinished files ended in earlier releases


class RunFolder:
    """The names inside a run's folder. As a context it ends what `begin` and `go_on` begin: the lock on the folder."""

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
            made = _missing(self.path)
            self.checkpoints.mkdir(parents=True)
        self._held.enter_context(locked(self.path, "the run"))
        try:
            self._store(config)
        except BaseException:
            self.checkpoints.rmdir()
            for folder in made:
                folder.rmdir()
            raise

    def go_on(self, config: TrainConfig) -> None:
        """Take up a run that was stopped or killed.

        Raises:
            UserError: there is no run, or it was begun with other options.
        """
        self.check(config)
        self._held.enter_context(locked(self.path, "the run"))
        clear_partial(self.checkpoints)
        for leftover in [path for path in self.path.iterdir() if path.name.endswith((PART, OLD_PART))]:
            remove(leftover)
        self.checkpoints.mkdir(exist_ok=True)
        self._store(config)

    def check(self, config: TrainConfig) -> None:
        """Whether a run may go on as ``config``; changes nothing. Raises as `go_on` does."""
        newest = self.newest()
        resumed(self.stored_config(), config, step_of(newest) if newest else 0)
        read_log(self.log)

    def stored_config(self) -> TrainConfig:
        """What the run was begun with."""
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
    """The options in a YAML file, which may be a run's own ``config.yaml``.

    Raises:
        UserError: unreadable, not plain YAML, or of another version.
    """
    values = read_yaml(path)
    version = values.pop("version", str(VERSION))
    if version != str(VERSION):
        raise UserError(f"{path}: of version {shown(version)}; this fastinpaint reads version {VERSION}.")
    return values


def _missing(path: Path) -> list[Path]:
    """The folders of a path that are not there yet, the deepest first."""
    return [folder for folder in (path, *path.parents) if not folder.exists()]
