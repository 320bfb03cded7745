"""The options of a training run: a frozen dataclass, read from YAML and the command line and stored with the run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, get_type_hints

from fastinpaint.data.holes import HOLE_KINDS
from fastinpaint.errors import UserError, shown
from fastinpaint.models import ModelConfig
from fastinpaint.models.config import RANGES
from fastinpaint.ranges import BATCH, COUNT, POSITIVE_COUNT, SEED, Number, real, whole
from fastinpaint.training.backend import BACKENDS, MEMORY
from fastinpaint.training.distributed import DEVICES

STRATEGIES = ("paper", "t1", "t2", "2dcn")
AMP = ("none", "bf16", "fp16")
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {"r": 2, "time_stride": 1},
    "v1": {"r": 4, "time_stride": 1},
    "v2": {"r": 2, "time_stride": 2},
}
"""The model options of the paper's ablations of 3DCN: V-1 a coarser video, V-2 strides in time."""
SCHEDULES = ("constant", "cosine")
RECIPES: dict[str, dict[str, Any]] = {
    "paper": {},
    "propagated": {
        "model": {"fill": "propagated", "width": 0.25},
        "strategy": "2dcn",
        "batch": 16,
        "view_frames": 1,
        "view_size": 32,
        "schedule": "cosine",
        "warmup": 500,
        "average": 0.998,
        "statistics": 100,
        "augment": True,
        "backend": "auto",
    },
}
"""Options that belong together. The paper's is the default; ``propagated`` trains a correction of propagated fills."""


def _option(
    default: Any, help: str, *, choices: tuple[str, ...] | None = None, range: Number | None = None, free: bool = False
) -> Any:
    """A field. ``free`` options may change on resume, because the weights do not depend on them."""
    return field(default=default, metadata={"help": help, "choices": choices, "range": range, "free": free})


@dataclass(frozen=True)
class TrainConfig:
    """Training options. Defaults are the paper's where it states a value.

    Raises:
        UserError: a value is out of range; the message names the option and the allowed values.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    recipe: str = _option("paper", "where the other options' defaults come from", choices=tuple(RECIPES))
    strategy: str = _option(
        "paper",
        "paper: pre-train 3DCN, then train both jointly; t1: keep the pre-trained 3DCN fixed; "
        "t2: both jointly from scratch; 2dcn: the image network alone",
        choices=STRATEGIES,
    )
    pretrain_steps: int = _option(
        100_000, "steps of pre-training 3DCN (strategies paper and t1)", range=COUNT, free=True
    )
    steps: int = _option(100_000, "steps of the phase after it", range=COUNT, free=True)
    batch: int = _option(1, "videos a step, over all processes", range=BATCH)
    accumulate: int = _option(1, "parts that each process cuts its share of a step into", range=BATCH)
    lr: float = _option(1e-3, "Adam's learning rate", range=real(0, 1000))
    schedule: str = _option("constant", "of the learning rate after its warm-up; cosine: to 0", choices=SCHEDULES)
    warmup: int = _option(0, "steps over which the learning rate rises", range=COUNT)
    average: float = _option(
        0.0, "decay of a moving average of the weights, which is what is validated and kept; 0: none", range=real(0, 1)
    )
    statistics: int = _option(
        50, "steps' data that the average's batch norm statistics are taken from", range=POSITIVE_COUNT
    )
    weight_decay: float = _option(
        0.0, "Adam's L2 penalty; the paper's 0.01 trained no better in short runs", range=real(0, 1000)
    )
    clip: float = _option(0.0, "largest norm of the gradient; 0: not clipped", range=real(0, 1e9))
    alpha: float = _option(1.0, "weight of CombCN's loss in Eq. 3", range=real(0, 1e6))
    gradient: float = _option(0.0, "weight of the error of gradients beside Eq. 3", range=real(0, 1e6))
    amp: str = _option("none", "automatic mixed precision", choices=AMP)
    holes: str = _option("rectangle", "kind of hole to train on", choices=HOLE_KINDS)
    flip: bool = _option(False, "mirror half of the videos")
    augment: bool = _option(False, "with fill propagated: change crop, time, direction and colours of the videos")
    view_frames: int = _option(8, "with fill propagated: frames that the network sees of a draw", range=whole(1, 4096))
    view_size: int = _option(64, "with fill propagated: side in pixels of what it sees", range=whole(8, 8192))
    fresh: float = _option(
        0.0, "with fill propagated: share of views with a new hole on a new piece of a frame", range=real(0, 1)
    )
    start: str = _option("", "a weights file whose weights the run begins with; none: random ones")
    seed: int = _option(0, "of the first weights, the order of the data and the holes", range=SEED)
    validate_every: int = _option(1000, "steps between validations; 0: none", range=COUNT, free=True)
    validation_samples: int = _option(0, "validation samples to use; 0: all", range=COUNT, free=True)
    save_every: int = _option(1000, "steps between checkpoints; 0: only at the end of a phase", range=COUNT, free=True)
    keep: int = _option(3, "checkpoints to keep", range=POSITIVE_COUNT, free=True)
    log_every: int = _option(10, "steps that a line of the log is the mean of", range=POSITIVE_COUNT, free=True)
    workers: int = _option(
        0, "processes that load data; the order of the data does not depend on them", range=whole(0, 256), free=True
    )
    device: str = _option("auto", "where to train", choices=DEVICES, free=True)
    backend: str = _option("reference", "what computes the layers; reference: plain PyTorch", choices=BACKENDS)
    memory: str = _option("default", "low, least: fused layers keep less and compute more", choices=MEMORY)
    graph: bool = _option(
        False,
        "launch each step as one CUDA graph; where that is impossible the reason is said and nothing else changes",
        free=True,
    )
    tensorboard: bool = _option(False, "write TensorBoard logs too", free=True)

    def __post_init__(self) -> None:
        for item in dataclasses.fields(self):
            if item.name != "model":
                _check(item, getattr(self, item.name))
        if self.batch % self.accumulate:
            raise UserError(
                f"batch: {self.batch} videos cannot be cut into {self.accumulate} equal parts (accumulate)."
            )
        if self.average >= 1:
            raise UserError(f"average: must be below 1, got {self.average:g}.")
        if self.total == 0:
            raise UserError("steps: there is nothing to train, as every phase has 0 steps.")

    @property
    def pretrains(self) -> bool:
        """Whether the strategy trains 3DCN alone first."""
        return self.strategy in ("paper", "t1")

    @property
    def total(self) -> int:
        """Steps of all phases together."""
        return self.steps + (self.pretrain_steps if self.pretrains else 0)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as stored in ``config.yaml``."""
        values = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        return {**values, "model": self.model.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], base: TrainConfig | None = None) -> TrainConfig:
        """``base`` (default: the defaults) updated by ``values``.

        ``values["model"]`` is itself a mapping. ``values["variant"]`` stands for the model options of V-1 or V-2, and
        ``values["recipe"]`` for those of `RECIPES`; other values go over them.

        Raises:
            UserError: a key is unknown or a value of the wrong type; the message lists the known ones.
        """
        base = base or cls()
        values = dict(values)
        recipe = values.get("recipe", base.recipe)
        if _chosen("recipe", recipe, tuple(RECIPES)) != base.recipe:
            base = cls.from_dict(RECIPES[recipe], dataclasses.replace(base, recipe=recipe))
        variant = values.pop("variant", None)
        preset = {} if variant is None else VARIANTS[_chosen("variant", variant, tuple(VARIANTS))]
        model = {**preset, **_mapping("model", values.pop("model", None))}
        _known("option", values, [item.name for item in dataclasses.fields(cls)] + ["variant"])
        _known("option of the model", model, [item.name for item in dataclasses.fields(ModelConfig)])
        return dataclasses.replace(
            base,
            model=ModelConfig.from_dict({**base.model.to_dict(), **_convert(ModelConfig, model, "model.")}),
            **_convert(cls, values),
        )


def resumed(stored: TrainConfig, asked: TrainConfig, done: int) -> TrainConfig:
    """Return ``asked`` if a run started as ``stored`` and now at ``done`` steps may continue with it.

    Raises:
        UserError: an option that the weights depend on differs, or steps already done would be cut off.
    """
    before, now = _flat(stored), _flat(asked)
    free = {item.name for item in dataclasses.fields(TrainConfig) if item.metadata.get("free")}
    differ = [name for name in before if name not in free and before[name] != now[name]]
    if differ:
        named = ", ".join(f"{name} ({before[name]} before, {now[name]} now)" for name in differ)
        raise UserError(f"--resume: the run was begun with other options: {named}.")
    if stored.schedule != "constant" and before["steps"] != now["steps"]:
        raise UserError(f"--resume: steps cannot change with schedule {stored.schedule}.")
    moved = stored.pretrain_steps != asked.pretrain_steps
    if stored.pretrains and moved and done > min(stored.pretrain_steps, asked.pretrain_steps):
        raise UserError(
            f"--resume: after {done} steps, pretrain_steps cannot change from {stored.pretrain_steps} "
            f"to {asked.pretrain_steps}."
        )
    if asked.total < done:
        raise UserError(f"--resume: {done} steps are done already, {asked.total} were asked for.")
    return asked


def _flat(config: TrainConfig) -> dict[str, Any]:
    values = config.to_dict()
    return {**{f"model.{name}": value for name, value in values.pop("model").items()}, **values}


def _convert(cls: type, values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Convert values to the fields' types. Files and the command line give strings."""
    kinds = get_type_hints(cls)
    return {name: _as(f"{prefix}{name}", value, kinds[name], _range_of(cls, name)) for name, value in values.items()}


def _range_of(cls: type, name: str) -> Number | None:
    return RANGES.get(name) if cls is ModelConfig else TrainConfig.__dataclass_fields__[name].metadata.get("range")


def _as(name: str, value: Any, kind: Any, range: Number | None) -> Any:
    if kind is bool:
        words = {"true": True, "yes": True, "false": False, "no": False}
        if isinstance(value, bool) or str(value).lower() in words:
            return value if isinstance(value, bool) else words[str(value).lower()]
        raise UserError(f"{name}: must be true or false, got {shown(value)}.")
    return value if range is None else range.checked(f"{name}:", value)


def _check(item: dataclasses.Field[Any], value: Any) -> None:
    if (choices := item.metadata["choices"]) is not None:
        _chosen(item.name, value, choices)
    elif item.type == "str" and not isinstance(value, str):
        raise UserError(f"{item.name}: must be a text, got {shown(value)}.")
    if (range := item.metadata["range"]) is not None:
        range.checked(f"{item.name}:", value)


def _chosen(name: str, value: Any, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise UserError(f"{name}: unknown value {shown(value)}; known: {', '.join(choices)}.")
    return value


def _known(what: str, values: Mapping[str, Any], known: list[str]) -> None:
    for name in values:
        if name not in known:
            raise UserError(f"unknown {what} {shown(name)}; known: {', '.join(known)}.")


def _mapping(name: str, value: Any) -> dict[str, Any]:
    if value in (None, ""):
        return {}
    if not isinstance(value, Mapping):
        raise UserError(f"{name}: must be a mapping of options to values, got {shown(value)}.")
    return dict(value)
